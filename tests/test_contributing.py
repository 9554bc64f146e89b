"""CONTRIBUTING.md, "A new block family in 15 lines", "A new width kind", "A new criterion", done word by word."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
from families import TOKENS, WIDTHS, classifier, har_transformer
from transformers import ElectraForSequenceClassification

from har_prune import find_widths, remove_units, score_blocks
from har_prune.blocks import families
from har_prune.blocks.example_inputs import example_inputs
from har_prune.scoring.criteria import base


def test_a_new_family_in_15_lines(root, tmp_path):
    guide = (root / "CONTRIBUTING.md").read_text().partition("## A new block family in 15 lines")[2]
    family, tiny = (textwrap.dedent(code) for code in re.findall(r" *```python\n(.*?) *```", guide, re.DOTALL)[:2])
    assert len((family + tiny).strip().splitlines()) <= 15
    suite = tmp_path / "tests"
    shutil.copytree(root / "tests", suite, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "har_prune").mkdir()  # pyproject's testpaths
    (suite / "support" / "my_family.py").write_text(family)
    with (suite / "support" / "families.py").open("a") as file:
        file.write("\nimport my_family\n\n")  # or: in har_prune/blocks/families.py itself

    def run(*arguments):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/blocks",
            "tests/scoring",
            *arguments,
        ]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "HAR_PRUNE_SHARED": str(tmp_path / "none"), "CI": ""},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    without = run("-k", "has_a_tiny_model")
    assert without.returncode == 1, "a family without a tiny model is noticed"
    assert "electra" in without.stdout
    with (suite / "support" / "families.py").open("a") as file:
        file.write(tiny)
    done = run("-k", "electra or has_a_tiny_model")
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 7, done.stdout[-500:]


def test_a_new_width_kind(root, monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))
    guide = (root / "CONTRIBUTING.md").read_text().partition("## A new width kind")[2]
    exec(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1], {})
    model = classifier(
        ElectraForSequenceClassification, num_hidden_layers=3, embedding_size=16, **{**WIDTHS, **TOKENS}
    )
    widths = find_widths(model)
    assert widths.units == {"intermediate": (48, 48, 48)}
    narrower = remove_units(widths, {index: [0, 5] for index in range(3)})  # compared with the masked original
    assert narrower.config.intermediate_size == 46


def test_a_new_criterion(root, monkeypatch):
    monkeypatch.setattr(base, "_CRITERIA", dict(base._registered()))
    guide = (root / "CONTRIBUTING.md").read_text().partition("## A new criterion")[2]
    exec(re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1], {})
    model = har_transformer().double()
    inputs, states = example_inputs(model, batch_size=5), []
    for layer in model.har_transformer.layers:
        layer.register_forward_hook(lambda module, args, output: states.append((args[0], output[0])))
    scores = score_blocks(model, [inputs], criterion="relative_change")
    states.clear()
    model(**inputs)
    for score, (before, after) in zip(scores, states, strict=True):
        expected = ((after - before).norm(dim=-1) / before.norm(dim=-1)).mean().item()
        assert score.importance == pytest.approx(expected, rel=1e-9)
