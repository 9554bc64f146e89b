"""Controls: what a pruned network is compared with."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from families import cifar_resnet, har_transformer, llama, swin
from rich.console import Console
from tiny_data import loader

from har_prune import HealConfig, PruneConfig, PruningHistory, find_blocks, prune
from har_prune.blocks.rebuild import without_blocks
from har_prune.errors import UnreachableTargetError
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.controls import control_network
from har_prune.recipe.schema import Recipe
from har_prune.reporting.report import run_report
from har_prune.reporting.summary import controls_table
from har_prune.reporting.trajectory import plot_trajectory
from har_prune.runtime.digest import weights_sha256
from har_prune.training.config import TrainConfig
from har_prune.training.loop import train_model

ALL = ("scratch", "original", "random", "last")
SETTINGS = PruneSettings(target={"blocks": 1})


def _run(out: Path | None = None, train: int = 0, **fields):
    torch.manual_seed(0)
    config = PruneConfig(**{
        "target": {"blocks": 2}, "evaluate": {"latency": False}, "output_dir": out,
        "heal": HealConfig(epochs=2, distill=True), "controls": ALL,
        "calibration": {"execution_plan": {"micro_batch": 32}}, **fields,
    })  # fmt: skip
    sets = {"validation": loader(32, 2), "test": loader(32, 3)}
    return prune(har_transformer(4), loader(64, train, shuffle=True), loader(32, 1), sets, config)


def test_each_control_is_what_it_says_and_sees_as_many_examples(tmp_path):
    history = _run(tmp_path / "out").history
    assert list(history.controls) == list(ALL)
    healed = sum(step.healing.samples_seen for step in history.iterations if step.healing)
    assert [step.healing.samples_seen for step in history.controls.values()] == [healed] * 4 == [128] * 4
    remaining = {name: step.remaining for name, step in history.controls.items()}
    assert remaining["scratch"] == history.after.remaining
    assert remaining["original"] == (0, 1, 2, 3)
    assert remaining["last"] == (0, 1)
    assert len(remaining["random"]) == 2
    assert history.controls["scratch"].cost.macs == history.after.cost.macs
    hashes = {step.weights_sha256 for step in (*history.controls.values(), *history.iterations)}
    assert len(hashes) == 4 + 3
    assert PruningHistory.from_json(json.loads(json.dumps(history.to_json()))) == history
    console = Console(width=200, record=True)
    console.print(controls_table(history))
    assert "same architecture from scratch" in console.export_text()
    report = run_report(history, "command")
    assert "| same architecture from scratch | 2 |" in report
    plot_trajectory(history, tmp_path / "trajectory.png")


def test_from_scratch_in_full_is_trained_as_the_original_was_and_as_long_as_both_together(tmp_path):
    values = {
        "output_dir": tmp_path / "out", "data": {"name_or_path": "synthetic"}, "evaluate": {"latency": False},
        "model": {"name_or_path": "somewhere"}, "prune": {"target": {"blocks": 2}},
        "train": {"epochs": 3, "learning_rate": 5e-3}, "heal": {"epochs": 2, "distill": True},
        "controls": ["scratch_full", "scratch"],
    }  # fmt: skip
    torch.manual_seed(0)
    sets = {"validation": loader(32, 2), "test": loader(32, 3)}
    result = prune(har_transformer(4), loader(64, 0, shuffle=True), loader(32, 1), sets, Recipe(**values))
    history = result.history
    full, short = history.controls["scratch_full"], history.controls["scratch"]
    assert (full.healing.samples_seen, short.healing.samples_seen) == (5 * 64, 2 * 64)
    assert full.remaining == short.remaining == history.after.remaining

    pruned = find_blocks(result.model)
    alone = control_network("scratch", pruned, pruned, SETTINGS, set(), 2)
    schedule = TrainConfig(epochs=5, learning_rate=5e-3)
    train_model(alone, loader(64, 0, shuffle=True), sets["validation"], schedule, seed=2)
    assert weights_sha256(alone.model) == full.weights_sha256, "on labels alone, by the schedule of train"
    assert "trained in full | 2 |" in (report := run_report(history, "command"))
    assert "in full means on labels, as the original was" in report
    with pytest.raises(ValueError, match="scratch_full is trained as the original was: it needs a recipe with"):
        PruneConfig(target={"blocks": 2}, heal=HealConfig(epochs=1), controls=["scratch_full"])


def test_several_healings_are_one_training_as_long_as_all(tmp_path):
    heal = HealConfig(epochs=1, when=1, final={"epochs": 2, "learning_rate": 5e-4})
    history = _run(heal=heal, controls=("last",)).history
    healed = sum(step.healing.samples_seen for step in history.iterations if step.healing)
    assert healed == 3 * 64
    assert history.controls["last"].healing.samples_seen == healed


def test_a_final_schedule_counts_also_where_it_was_the_only_healing():
    heal = HealConfig(epochs=1, when=5, final={"epochs": 4})
    history = _run(heal=heal, target={"blocks": 3}, controls=("last",)).history
    assert history.after.healing.samples_seen == history.controls["last"].healing.samples_seen == 4 * 64


def test_random_blocks_that_go_in_pairs_are_never_more_than_the_pruned_network_lost():
    original = find_blocks(swin())
    pruned = without_blocks(original, [original.stages[0][-1]])
    for seed in range(4):
        stack = control_network("random", original, pruned, SETTINGS, set(), seed)
        assert len(stack) == len(pruned)


def test_controls_can_be_added_to_a_run_that_has_ended(tmp_path):
    first = _run(tmp_path / "out", controls=("last",)).history
    both = _run(tmp_path / "out", controls=("last", "scratch")).history
    assert list(both.controls) == ["last", "scratch"]
    assert both.controls["last"] == first.controls["last"]
    assert both.iterations == first.iterations
    assert PruningHistory.from_json(json.loads((tmp_path / "out" / "history.json").read_text())) == both


def test_a_control_that_is_kept_is_not_trained_again(tmp_path, monkeypatch):
    first = _run(tmp_path / "out").history
    monkeypatch.setattr("har_prune.pruning.healing.train_model", lambda *_, **__: pytest.fail("trained again"))
    (tmp_path / "out" / "history.json").unlink()
    assert _run(tmp_path / "out").history.controls == first.controls


def test_random_blocks_follow_from_the_seed_and_the_guards():
    original = find_blocks(cifar_resnet(depths=[4, 4, 4]))
    pruned = original
    paper = PruneSettings(target={"blocks": 6}, guards="paper")
    pruned = without_blocks(original, [1, 2, 5, 6])
    drawn = {
        tuple(control_network("random", original, pruned, paper, {11}, seed).original_indices)
        for seed in (0, 0, 1, 2, 3)
    }
    assert 2 < len(drawn) <= 4
    assert all({0, 4, 8, 11} <= set(left) and len(left) == 8 for left in drawn)
    assert control_network("last", original, pruned, paper, {11}, 0).original_indices == [0, 1, 2, 3, 4, 5, 8, 11]


def test_other_data_draw_other_blocks():
    original = find_blocks(cifar_resnet(depths=[4, 4, 4]))
    pruned = without_blocks(original, [1, 2, 5, 6])

    def drawn(data):
        return tuple(control_network("random", original, pruned, SETTINGS, set(), 0, data).original_indices)

    folds = [hashlib.sha256(name.encode()).hexdigest() for name in ("s1", "s2", "s3", "s4")]
    assert len({drawn(data) for data in folds}) > 2, "one draw for all folds would be one network"
    assert drawn(folds[0]) == drawn(folds[0])


def test_a_run_draws_by_its_data():
    left = {_run(train=fold, controls=("random",)).history.controls["random"].remaining for fold in range(5)}
    assert len(left) > 1


def test_a_network_from_scratch_has_new_weights_and_the_mean_image():
    original = find_blocks(cifar_resnet(subtract_pixel_mean=True))
    original.model.cifar_resnet.embedder.pixel_mean.fill_(0.4)
    fresh = control_network("scratch", original, original, SETTINGS, set(), 1)
    again = control_network("scratch", original, original, SETTINGS, set(), 1)
    embedder = fresh.model.cifar_resnet.embedder
    assert torch.equal(embedder.pixel_mean, original.model.cifar_resnet.embedder.pixel_mean)
    assert not torch.equal(embedder.convolution.weight, original.model.cifar_resnet.embedder.convolution.weight)
    assert torch.equal(embedder.convolution.weight, again.model.cifar_resnet.embedder.convolution.weight)
    assert embedder.normalization.running_var.eq(1).all()


def test_tables_of_a_network_from_scratch_are_as_exact_as_those_of_the_pruned_one(tmp_path):
    pruned = find_blocks(llama().to(torch.bfloat16))
    pruned.model.model.rotary_emb.inv_freq.data = llama().model.rotary_emb.inv_freq.data  # as it is when it is loaded
    scratch = control_network("scratch", pruned, pruned, PruneSettings(target={"blocks": 4}), set(), 0).model
    table, of_pruned = (model.model.rotary_emb.inv_freq for model in (scratch, pruned.model))
    assert (scratch.dtype, table.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(table, of_pruned)


def test_controls_without_healing_or_twice_are_refused():
    with pytest.raises(ValueError, match="controls are trained as the result is healed: give a heal section"):
        PruneConfig(target={"blocks": 2}, controls=["scratch"])
    with pytest.raises(ValueError, match="name one of them twice"):
        PruneConfig(target={"blocks": 2}, heal=HealConfig(epochs=1), controls=["last", "last"])


def test_as_many_blocks_as_there_are_is_a_plain_training_and_more_is_refused():
    history = _run(target={"blocks": 4}, controls=()).history
    assert [step.removed for step in history.iterations] == [()]
    with pytest.raises(UnreachableTargetError, match=r"this network has 4 blocks\. Ask for 1 to 3, or for 4"):
        _run(target={"blocks": 5}, controls=())


def test_a_control_takes_as_many_steps_as_all_healings_of_part_of_an_epoch():
    """Each healing rounds half of three steps to two; the control takes four of them, and not round(2 * 1.5)."""
    torch.manual_seed(0)
    heal = HealConfig(epochs=0.5, when=1)
    config = PruneConfig(target={"blocks": 2}, heal=heal, controls=("scratch",), evaluate={"latency": False})
    history = prune(har_transformer(4), loader(48, 0), loader(32, 1), loader(32, 2), config).history
    healings = [step.healing.steps for step in history.iterations if step.healing]
    assert len(healings) == 2
    assert history.controls["scratch"].healing.steps == sum(healings)


def test_random_weights_are_trained_whole_whatever_is_healed(monkeypatch):
    trained = {}

    def noted(stack, train, validation, schedule, *, name, **rest):
        trained[name] = schedule.parameters
        return train_model(stack, train, validation, schedule, name=name, **rest)

    monkeypatch.setattr("har_prune.pruning.healing.train_model", noted)
    _run(heal=HealConfig(epochs=1, parameters="norms_and_head"))
    assert trained.pop("control-scratch") == "all"
    assert set(trained) == {"heal-002", "control-original", "control-random", "control-last"}
    assert set(trained.values()) == {"norms_and_head"}


def test_controls_of_a_target_that_removes_nothing_are_refused_at_once():
    with pytest.raises(UnreachableTargetError, match=r"blocks=4 removes and heals nothing.*leave controls out"):
        _run(target={"blocks": 4})
