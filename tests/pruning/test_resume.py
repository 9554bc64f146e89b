"""SIGKILL at many moments, start again, compare with a run nobody interrupted: history equal, weights bit-equal."""

import copy
import json
import signal
from pathlib import Path

import pytest
import torch
from families import har_transformer
from killed import die_at_call, in_new_process
from safetensors.torch import load_file
from tiny_data import loader, windows
from torch.utils.data import DataLoader

from har_prune import HealConfig, PruneConfig, prune
from har_prune.models.har_transformer import HarTransformerConfig, HarTransformerForSequenceClassification
from har_prune.pruning.healing import Healer
from har_prune.scoring.config import ExecutionPlan

REMOVALS = 2


def _prune(out: Path) -> None:
    torch.manual_seed(0)
    config = HarTransformerConfig(
        num_channels=6, window_size=32, hidden_size=32, num_attention_heads=4, intermediate_size=48,
        num_hidden_layers=4, num_labels=3,
    )  # fmt: skip
    prune(
        HarTransformerForSequenceClassification(config),
        loader(64, 0, shuffle=True),
        loader(32, 1),
        loader(32, 2),
        PruneConfig(
            target={"blocks": 4 - REMOVALS},
            # A given execution plan: two runs that each choose their own may differ in the last bits of a score.
            calibration={"execution_plan": {"micro_batch": 32}},
            heal=HealConfig(epochs=2, distill=True, when=1),
            output_dir=out,
        ),
    )


def _victim(out: Path, module: str, name: str, number: int) -> None:
    die_at_call(module, name, number)
    _prune(out)


def _outcome(out: Path) -> tuple[dict, dict]:
    history = json.loads((out / "history.json").read_text())
    for step in history["iterations"]:
        step.pop("seconds")
        step["cost"].pop("latency")
    history.pop("environment")
    return history, load_file(out / f"iteration-{REMOVALS:03d}" / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    assert in_new_process(_prune, out) == 0
    return _outcome(out)


def test_how_work_is_cut_is_kept_before_the_first_iteration_is_whole(tmp_path, monkeypatch):
    """It is timed, and started again the clock may say otherwise."""
    chosen = iter([ExecutionPlan(micro_batch=8), ExecutionPlan(micro_batch=32)])
    monkeypatch.setattr("har_prune.scoring.measure.choose_execution_plan", lambda *_: next(chosen))
    healed, calls = Healer.healed, []

    def killed(*arguments, **options):
        calls.append(0)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return healed(*arguments, **options)

    monkeypatch.setattr(Healer, "healed", killed)
    config = PruneConfig(target={"blocks": 3}, heal=HealConfig(epochs=1), output_dir=tmp_path / "out")
    model = har_transformer()
    with pytest.raises(KeyboardInterrupt):
        prune(copy.deepcopy(model), loader(32, 0), loader(32, 1), loader(32, 2), config)
    result = prune(model, loader(32, 0), loader(32, 1), loader(32, 2), config)
    assert result.history.after.calibration.execution_plan["micro_batch"] == 8


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        ("os", "replace", 1),  # the recipe is written and not yet in place
        ("har_prune.pruning.loop", "rank_candidates", 1),
        ("har_prune.training.loop", "evaluate_model", 2),  # in the middle of the first healing
        ("har_prune.runtime.files", "_sync", 6),  # an iteration is being written
        ("os", "rename", 2),  # the first iteration is complete and not yet in place
        ("har_prune.pruning.structures", "without_blocks", 2),
        ("har_prune.training.loop", "evaluate_model", 3),  # in the middle of the second healing
        ("os", "rename", 3),
        ("os", "replace", 6),  # all iterations are there, history.json is not
    ],
)
def test_killed_and_started_again_it_ends_the_same(module, name, number, uninterrupted, tmp_path):
    out = tmp_path / "out"
    assert in_new_process(_victim, out, module, name, number) == -signal.SIGKILL
    assert not (out / "history.json").exists()
    assert in_new_process(_prune, out) == 0
    history, weights = _outcome(out)
    expected_history, expected_weights = uninterrupted
    assert history == expected_history
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(value, expected_weights[key]) for key, value in weights.items())
    assert not list(out.glob(".partial*")), "what the killed run left half-written is gone"


def test_a_calibration_that_draws_by_a_generator_of_its_own_goes_on_alike(tmp_path):
    class Stop(Exception):
        pass

    def removed(out, stop=None):
        def interrupt(step, history):
            if step.iteration == stop:
                raise Stop

        torch.manual_seed(0)
        model = har_transformer(6)
        drawing = DataLoader(windows(256, 7), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
        config = PruneConfig(
            target={"blocks": 3}, calibration={"samples": 8, "execution_plan": {"micro_batch": 8}}, output_dir=out,
            evaluate={"latency": False},
        )  # fmt: skip
        history = prune(model, None, drawing, loader(32, 2), config, on_step=interrupt).history
        return [[score.importance for score in step.scores] for step in history.iterations]

    whole = removed(tmp_path / "whole")
    with pytest.raises(Stop):
        removed(tmp_path / "cut", stop=2)
    assert removed(tmp_path / "cut") == whole
