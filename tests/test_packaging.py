"""What several files say of the package is the same everywhere."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import yaml

import har_prune
from har_prune.runtime import environment


def test_lower_bounds_are_the_versions_that_were_tried_together(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(d for extra in ("keras", "test") for d in project["optional-dependencies"][extra]),
    ]
    bounds = dict(entry.split(">=") for entry in wanted if ">=" in entry)
    tried = re.findall(r"^([\w-]+)==(\S+)$", (root / "constraints-lowest.txt").read_text(), re.MULTILINE)
    versions = {name: tuple(map(int, version.split("."))) for name, version in tried}
    for name, bound in bounds.items():
        parts = tuple(map(int, bound.split(".")))
        assert versions[name][: len(parts)] == parts, f"{name}>={bound} was not tried"


def test_one_version(root):
    stated = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert stated == har_prune.__version__ == yaml.safe_load((root / "CITATION.cff").read_text())["version"]
    assert f"## {stated}" in (root / "CHANGELOG.md").read_text().split("\n## ")[1].join(["## ", ""])


def test_a_checkout_that_is_not_installed_says_its_version(monkeypatch):
    def installed(package):
        if package == "har_prune":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(environment, "version", installed)
    assert environment.environment()["har_prune"] == har_prune.__version__
