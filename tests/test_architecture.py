"""The table of CONTRIBUTING.md, "Architecture", held against the imports; and what rooms and names must be like."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import har_prune

# `accelerate launch har_prune/run.py` puts the folder first on sys.path.
TAKEN = {"datasets", "evaluate", "accelerate", "transformers", "torch", "types", "logging", "copy", "profile"}


def _table(root: Path) -> dict[str, set[str]]:
    """Room, or module of a room -> rooms and modules it may import, those of its own row among them."""
    text = (root / "CONTRIBUTING.md").read_text().partition("| room |")[2].partition("\n\n")[0]
    rows: dict[str, set[str]] = {}
    for line in text.splitlines()[2:]:
        cells = line.split("|")
        names, named = (
            {name.replace("/", ".") for name in re.findall(r"`([a-z_/]+?)/?`", cell)} for cell in cells[1:4:2]
        )
        rows |= dict.fromkeys(names, names | (set(rows) if "all above" in line else named))
    return rows


def _imports(path: Path, root: Path) -> set[str]:
    """Modules of the project that a file imports anywhere, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith(("har_prune.", "data_prep")) and ".__" not in name}


def _row_of(name: str, table: dict[str, set[str]]) -> str:
    """The most exact row that covers a dotted name below har_prune."""
    parts = name.split(".")
    return next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in table)


def _modules(root: Path) -> list[Path]:
    return sorted(path for path in (root / "har_prune").rglob("*.py") if path != root / "har_prune" / "__init__.py")


def test_rooms_import_what_the_table_lets_them(root):
    table, wrong = _table(root), []
    assert len(table) > 12
    for path in _modules(root):
        own = _row_of(".".join(path.relative_to(root / "har_prune").with_suffix("").parts), table)
        for name in _imports(path, root):
            target = _row_of(name.removeprefix("har_prune."), table) if name.startswith("har_prune.") else "data_prep"
            if target not in table[own]:
                wrong.append(f"{path.relative_to(root)} imports {name}: {own} may not import {target}")
    assert not wrong, "\n".join(wrong)


def test_every_room_has_a_row(root):
    table = _table(root)
    rooms = {path.stem for path in (root / "har_prune").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "py"} <= {name.split(".")[0] for name in table}
    for name in table:
        place = root / "har_prune" / name.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").exists(), f"{name} has a row and is not there"


def test_data_prep_never_imports_har_prune(root):
    for path in (root / "data_prep").rglob("*.py"):
        assert not [name for name in _imports(path, root) if name.startswith("har_prune")], path


def test_rooms_export_nothing(root):
    for path in _modules(root):
        if path.name == "__init__.py" and "models" not in path.parts:
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, f"{path} holds more than a docstring"
            assert isinstance(body[0], ast.Expr)


def test_no_module_hides_a_library(root):
    names = {path.stem for path in (root / "har_prune").iterdir()}
    assert not names & TAKEN
    assert not {"utils", "helpers", "common"} & {path.stem for path in _modules(root)}


def test_public_names_are_loaded_from_where_the_type_checker_looks(root):
    tree = ast.parse((root / "har_prune" / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        node.module.removeprefix("har_prune."): tuple(alias.name for alias in node.names)
        for node in checked.body if isinstance(node, ast.ImportFrom)
    }  # fmt: skip
    assert typed == har_prune._PUBLIC
    for name in har_prune.__all__:
        assert getattr(har_prune, name).__name__ == name
    assert set(har_prune._HOMES) <= set(dir(har_prune))


@pytest.mark.parametrize(("former", "name"), har_prune._FORMER.items())
def test_former_names_answer_for_one_release(former, name):
    with pytest.warns(DeprecationWarning, match=f"har_prune.{former} is now har_prune.{name}"):
        assert getattr(har_prune, former) is getattr(har_prune, name)


def test_importing_har_prune_loads_no_more_than_its_models_need():
    """Counted, because times differ: benchmarks/import_time.py measures."""
    code = (
        "import sys, har_prune; print(*sorted(m for m in sys.modules if m.split('.')[0] in "
        "('datasets', 'evaluate', 'sklearn', 'scipy', 'matplotlib', 'pandas', 'pyarrow', 'pydantic', 'typer', 'rich')"
        " or m.startswith('har_prune.') and not m.startswith('har_prune.models')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    usual = "torch; from transformers import AutoModel, PreTrainedModel; print"
    before = subprocess.run(
        [sys.executable, "-c", code.replace("har_prune; print", usual)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert set(done.stdout.split()) <= set(before.stdout.split())
