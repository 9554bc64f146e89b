"""What is published of results is what the committed records say."""

import json
import re
import shutil
import subprocess
import sys


def test_the_committed_tables_are_made_of_the_committed_records(root, tmp_path):
    for name in ("benchmarks", "docs"):
        shutil.copytree(root / name, tmp_path / name)
    shutil.copyfile(root / "README.md", tmp_path / "README.md")
    kept = sorted((tmp_path / "benchmarks" / "histories").iterdir())
    assert kept, "histories are what tables are made of"
    written = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix in (".md", ".json", ".html") and "histories" not in path.parts
    ]
    expected = {path: path.read_text(encoding="utf-8") for path in written}
    for path in written:  # so that what is not made again shows
        if path.suffix == ".md" and path.with_suffix(".json").exists():
            path.unlink()
    done = subprocess.run(
        [sys.executable, "benchmarks/results.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for path, text in expected.items():
        assert path.exists(), f"make results does not write {path.relative_to(tmp_path)}"
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(tmp_path)}: run `make results`, commit"


def test_every_benchmark_has_its_command(root):
    page = (root / "benchmarks" / "reproduce.md").read_text()
    parts = {"measuring.py", "trials.py", "loso_folds.py", "loso_picture.py"}
    for path in (root / "benchmarks").glob("*.py"):
        assert path.name in parts or f"benchmarks/{path.name}" in page, path.name
    for recipe in re.findall(r"recipes/\w+\.yaml", page):
        assert (root / recipe).is_file(), recipe


def test_every_result_says_what_made_it(root):
    page = (root / "benchmarks" / "results" / "README.md").read_text()
    for path in (root / "benchmarks" / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert f"`{path.stem}`" in page, path.stem
        if "table" in record:
            assert record["command"].startswith("python benchmarks/"), path.stem
