"""A whole run killed with SIGKILL and started again: history equal, every weight bit-equal."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import tiny_cifar
import torch
from killed import die_at_call, in_new_process
from safetensors.torch import load_file
from typer.testing import CliRunner

from har_prune.commands.app import app

QUICKSTART = ["quickstart", "train.epochs=1", "heal.epochs=0.2", "prune.target={blocks: 6}", "controls=[scratch]"]


def _run(root: Path, out: Path, recipe: str, *overrides: str) -> None:
    # A given execution plan: two runs that each choose their own may differ in the last bits of a score.
    plan = "prune.calibration.execution_plan={micro_batch: 32}"
    arguments = [
        "run",
        str(root / "recipes" / f"{recipe}.yaml"),
        f"output_dir={out}",
        "num_threads=1",
        plan,
        *overrides,
    ]
    result = CliRunner().invoke(app, arguments)
    if result.exit_code:
        raise SystemExit(result.exit_code)


def _victim(module: str, name: str, number: int, *arguments) -> None:
    die_at_call(module, name, number)
    _run(*arguments)


def _outcome(out: Path) -> tuple[list, dict]:
    history = json.loads((out / "history.json").read_text())
    for step in history["iterations"]:
        step.pop("seconds")
        step["cost"].pop("latency")
    weights = {path.parent.name: load_file(path) for path in sorted(out.glob("*/model.safetensors"))}
    return history["iterations"], weights


def _same(first: tuple[list, dict], second: tuple[list, dict]) -> bool:
    return first[0] == second[0] and all(
        torch.equal(value, second[1][folder][key])
        for folder, state in first[1].items()
        for key, value in state.items()
    )


@pytest.fixture(scope="module")
def uninterrupted(root, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert in_new_process(_run, root, out, *QUICKSTART) == 0
    return _outcome(out)


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        ("har_prune.training.loop", "evaluate_model", 1),  # the original is being trained
        ("os", "rename", 1),  # the original is saved and not yet in place
        ("har_prune.training.loop", "evaluate_model", 2),  # the first healing
        ("har_prune.pruning.loop", "control_network", 1),
        ("har_prune.checkpoints.save", "verify_saved", 1),  # the result is being verified
        ("har_prune.recipe.steps", "plot_trajectory", 1),
    ],
)
def test_a_run_killed_and_started_again_ends_the_same(module, name, number, uninterrupted, root, tmp_path):
    out = tmp_path / "out"
    assert in_new_process(_victim, module, name, number, root, out, *QUICKSTART) == -signal.SIGKILL
    assert in_new_process(_run, root, out, *QUICKSTART) == 0
    outcome = _outcome(out)
    assert {"original", "iteration-001", "iteration-002", "control-scratch", "pruned"} == set(outcome[1])
    assert _same(outcome, uninterrupted)
    assert {path.name for path in out.iterdir()} >= {"report.md", "trajectory.png", "history.json"}


def test_a_result_that_was_altered_is_not_called_that_of_the_run(root, tmp_path):
    out = tmp_path / "out"
    assert in_new_process(_run, root, out, *QUICKSTART) == 0
    (out / "pruned" / "model.safetensors").write_bytes(b"")
    assert in_new_process(_run, root, out, *QUICKSTART) == 2
    shutil.rmtree(out / "pruned")
    assert in_new_process(_run, root, out, *QUICKSTART) == 0
    (out / "pruned" / "history.json").write_text("{")
    assert in_new_process(_run, root, out, *QUICKSTART) == 2


def test_a_resnet_under_autocast_as_well(root, tmp_path):
    (tmp_path / "cifar").mkdir()
    data, checkpoint = tiny_cifar.make(tmp_path / "cifar")
    arguments = [
        "cifar10_resnet56_cpu", f"data.name_or_path={data}", f"model.name_or_path={checkpoint}", "data.batch_size=4",
        "prune.target={blocks: 25}", "prune.calibration.samples=8", "precision=bf16", "heal.when=1",
        "heal.epochs=0.5", "heal.keep=best", "data.validation_fraction=0.3",
    ]  # fmt: skip
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert in_new_process(_run, root, whole, *arguments) == 0
    killed = in_new_process(_victim, "har_prune.training.loop", "evaluate_model", 2, root, resumed, *arguments)
    assert killed == -signal.SIGKILL
    assert (resumed / "iteration-001").exists()
    assert in_new_process(_run, root, resumed, *arguments) == 0
    assert _same(_outcome(resumed), _outcome(whole))
