import json
from dataclasses import replace

import pytest
import torch
from families import har_resnet, har_transformer, swin, vit
from pydantic import ValidationError
from tiny_data import loader

from har_prune import HealConfig, PruneConfig, PruningHistory, find_blocks, find_widths, prune, train_model
from har_prune.errors import NotRemovableError, UnknownCriterionError, UnreachableTargetError
from har_prune.evaluation import cost
from har_prune.evaluation.cost import Cost
from har_prune.evaluation.latency import Latency, measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.pruning import choose, healing, plan, structures
from har_prune.pruning.config import WidthSettings
from har_prune.pruning.history import PruningStep
from har_prune.pruning.plan import steps_left
from har_prune.pruning.target import Target
from har_prune.scoring.similarity import similarities


@pytest.fixture(scope="module")
def parent():
    torch.manual_seed(0)
    model = har_transformer(4, hidden_dropout_prob=0.0)
    train_model(model, loader(96, 0, shuffle=True), None, HealConfig(epochs=12, learning_rate=3e-3), seed=1)
    return model


BATCHES = list(loader(32, 1))


def _prune(parent, **fields):
    config = PruneConfig(**{"target": {"macs_reduction": 0.5}, "evaluate": {"latency": False}, **fields})
    train = loader(96, 0, shuffle=True) if config.heal else None
    return prune(parent, train, BATCHES, {"validation": loader(48, 2), "test": loader(48, 3)}, config)


def test_at_each_step_what_stays_closer_goes_a_block_or_units_of_as_many_macs(parent):
    result = _prune(parent, structures=["blocks", "widths"])
    history = result.history
    assert history.macs_reduction(history.after) >= 0.5
    assert result.target_met
    stack, network = find_blocks(parent), parent
    for before, step in zip(history.iterations, history.iterations[1:], strict=False):
        choice = step.choice
        assert choice.taken == max(choice.similarity, key=choice.similarity.get)
        assert step.cost.macs == choice.macs[choice.taken]
        saved = {name: before.cost.macs - macs for name, macs in choice.macs.items()}
        assert saved["widths"] == pytest.approx(saved["blocks"], rel=0.1)
        assert bool(step.removed) == (choice.taken == "blocks") != bool(step.removed_units)
    first = history.iterations[1]
    least = min(first.scores, key=lambda score: score.importance)
    known = similarities(network, BATCHES, {"blocks": lambda: stack.bypassed([least.block])})
    assert first.choice.similarity["blocks"] == pytest.approx(known["blocks"], abs=1e-9)
    left = find_widths(result.model).units
    assert history.after.units == left
    assert PruningHistory.from_json(json.loads(json.dumps(history.to_json()))) == history


def test_units_alone_go_in_steps_and_land_on_the_target(parent):
    history = _prune(parent, structures=["widths"], widths={"step": 0.2, "kinds": ["intermediate"]},
                     target={"macs_reduction": 0.3}).history  # fmt: skip
    macs = history.before.cost.macs
    one = macs - count_macs_without_one(parent)
    assert len(history.steps) == 3
    for step, goal in zip(history.steps[1:], (0.2, 0.3), strict=True):
        assert 0 <= history.macs_reduction(step) - goal <= one / macs
        assert (step.removed, step.scores, step.calibration, step.choice) == ((), (), None, None)
    assert len(history.after.remaining) == 4


def count_macs_without_one(model):
    from har_prune import remove_units

    inputs = {key: value[:1] for key, value in BATCHES[0].items() if key != "labels"}
    return count_macs(remove_units(model, {0: [0]}), inputs)


def test_where_no_block_can_go_units_still_do(parent):
    result = _prune(parent, structures=["blocks", "widths"], min_blocks_per_stage=4)
    assert len(find_blocks(result.model)) == 4
    assert all(step.removed_units and step.choice is None for step in result.history.steps[1:])


def test_controls_are_narrowed_as_well(parent):
    heal = HealConfig(epochs=0.5)
    history = _prune(
        parent, structures=["widths"], widths={"step": 0.3}, heal=heal, controls=["scratch", "random", "last"]
    ).history
    assert history.controls["scratch"].cost.macs == history.after.cost.macs
    assert history.controls["scratch"].units == history.after.units
    for name in ("random", "last"):
        control = history.controls[name]
        assert control.cost.macs == pytest.approx(history.after.cost.macs, rel=0.1)
        assert control.units != history.after.units


@pytest.mark.parametrize("structures", [["widths"], ["blocks", "widths"]])
def test_a_run_that_was_stopped_goes_on_to_the_same_result(parent, tmp_path, structures, monkeypatch):
    fields = {"structures": structures, "heal": HealConfig(epochs=0.5, when=1), "target": {"macs_reduction": 0.6}}
    whole = _prune(parent, output_dir=tmp_path / "whole", **fields)

    class StopError(Exception):
        pass

    def stop(step, history):
        if step.iteration == 2:
            raise StopError

    config = PruneConfig(**{**fields, "evaluate": {"latency": False}, "output_dir": tmp_path / "stopped"})
    given = (loader(96, 0, shuffle=True), BATCHES, {"validation": loader(48, 2), "test": loader(48, 3)}, config)
    with pytest.raises(StopError):
        prune(parent, *given, on_step=stop)
    resumed = prune(parent, *given)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name])
    assert [step.units for step in resumed.history.steps] == [step.units for step in whole.history.steps]


def test_no_criterion_sees_more_examples_than_calibration_has(parent, monkeypatch):
    seen = []

    def counted(name, real):
        def count(stack, batches, *given, **named):
            seen.append((name, sum(len(batch["labels"]) for batch in batches)))
            return real(stack, batches, *given, **named)

        monkeypatch.setattr(choose, name, count)

    counted("score_units", choose.score_units)
    counted("similarities", choose.similarities)
    _prune(parent, structures=["blocks", "widths"], target={"macs_reduction": 0.3}, calibration={"samples": 20})
    assert set(seen) == {("score_units", 20), ("similarities", 20)}


def _clocked(monkeypatch, per_mac):
    """A clock that knows how long a network takes: in proportion to `per_mac` of its MACs."""

    def timed(model, inputs, original, budget):
        time, other = (per_mac * count_macs(network, inputs) for network in (model, original))
        return Latency(time, time, 1, 1, "cpu", "float32", original_ms=other, interval_ms=(0.99 * time, 1.01 * time))

    for module in (cost, choose, plan):
        monkeypatch.setattr(module, "timed", timed)


def test_a_latency_budget_is_met_by_measuring_each_network(parent, monkeypatch, tmp_path):
    _clocked(monkeypatch, 1e-5)
    history = _prune(parent, target={"latency_ms": 1.5}).history
    times = [step.cost.latency.interval_ms[1] for step in history.steps]
    assert times[-1] <= 1.5 < times[-2]
    narrowed = _prune(parent, target={"latency_ms": 1.5}, structures=["blocks", "widths"]).history
    for before, step in zip(narrowed.steps, narrowed.steps[1:], strict=False):
        if step.choice:
            saved = {name: before.cost.macs - macs for name, macs in step.choice.macs.items()}
            assert saved["blocks"] <= saved["widths"] <= 1.1 * saved["blocks"], "as many milliseconds"
    with pytest.raises(
        UnreachableTargetError, match=r"latency_ms=0.5 cannot be reached.*\(1 of 4 blocks\) takes 0\.\d+"
    ):
        _prune(parent, target={"latency_ms": 0.5}, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    smallest = 1e-5 * _prune(parent, target={"blocks": 1}).history.after.cost.macs
    with pytest.raises(UnreachableTargetError, match=r"cannot be decided.*lies in this spread"):
        _prune(parent, target={"latency_ms": smallest})


def test_a_line_through_the_networks_so_far_says_how_many_steps_are_left():
    def step(iteration, macs):
        latency = Latency(1 + macs / 100, 2.0, 1, 1, "cpu", "float32")
        return PruningStep(iteration, (), (), (), None, Cost(macs, 1, latency=latency), {}, None, "", 0.0)

    steps = [step(i, macs) for i, macs in enumerate((1000, 900, 800))]
    assert steps_left(steps, Target(latency_ms=6)) == pytest.approx(3)
    assert steps_left(steps, Target(latency_ms=9.5)) == 0
    assert steps_left(steps[:1], Target(latency_ms=6)) is None
    assert steps_left(steps, Target(blocks=3)) is None


def test_timing_goes_on_while_the_budget_lies_inside_the_spread(parent, monkeypatch):
    runs = []
    times = iter([1.0, 3.0] * 200)
    monkeypatch.setattr(
        "har_prune.evaluation.latency._one_forward", lambda model, inputs: runs.append(1) or next(times) / 1000
    )
    inputs = {"input_values": BATCHES[0]["input_values"][:1]}
    measured = measure_latency(parent, inputs, warmup=0, repeats=30, budget_ms=2.0)  # looked at at 30, 60, 120, 240
    assert len(runs) == 300, "ten times as often, and no more"
    assert measured.is_undecided(2.0)
    assert measured.interval_ms == (1.0, 3.0)
    runs.clear()
    assert not measure_latency(parent, inputs, warmup=0, repeats=30, budget_ms=4.0).is_undecided(4.0)
    assert len(runs) == 30


def test_bad_settings_are_refused_before_any_work(parent):
    for fields, said in (
        ({"structures": ["widths"], "target": {"blocks": 2}}, "removes none"),
        ({"structures": []}, "at least 1 item"),
        ({"structures": ["widths", "widths"]}, "twice"),
        ({"structures": ["width"]}, "'blocks' or 'widths'"),
        ({"structures": ["widths"], "widths": {"min_units": 0}}, "greater than or equal to 1"),
        ({"widths": {"step": 0.1}}, "widths would change nothing"),
        ({"target": {"latency_ms": {"at_most": 1, "device": "tpu"}}}, "cpu or cuda"),
        ({"target": {"latency_ms": {"at_most": 1, "device": "cuda:7"}}}, "not here"),
        ({"target": {"latency_ms": 0}}, "greater than 0"),
    ):
        if "not here" in said and torch.cuda.is_available():
            continue
        with pytest.raises(ValidationError, match=said):
            PruneConfig(**{"target": {"macs_reduction": 0.5}, **fields})
    with pytest.raises(NotRemovableError, match="nothing inside the blocks of swin can be narrowed"):
        _prune(swin(), structures=["widths"])
    with pytest.raises(NotRemovableError, match="no width called 'channels'"):
        _prune(parent, structures=["widths"], widths={"kinds": ["channels"]})
    with pytest.raises(UnknownCriterionError, match="'l1'"):
        _prune(parent, structures=["widths"], widths={"criterion": "l1"})
    with pytest.raises(UnreachableTargetError, match=r"macs_reduction=0.9 cannot be reached.*4 blocks, narrowed\)"):
        _prune(parent, structures=["widths"], target={"macs_reduction": 0.9})
    with pytest.raises(UnreachableTargetError, match="holds its target as it is"):
        _prune(parent, target={"parameters": 10**9})
    with pytest.raises(UnreachableTargetError, match=r"holds latency_ms=1e\+06 as it is"):
        _prune(parent, target={"latency_ms": 1e6})


def test_protected_blocks_and_those_outside_of_a_path_keep_their_width(parent):
    history = _prune(parent, structures=["widths"], protected=[0, 1], target={"macs_reduction": 0.2}).history
    for kind, units in history.after.units.items():
        assert units[:2] == history.before.units[kind][:2]
        assert units[2:] != history.before.units[kind][2:]
    model = har_resnet()
    stage = find_blocks(model, within="har_resnet.encoder.stages.0")
    result = _prune(stage, structures=["widths"], target={"macs_reduction": 0.1})
    assert result.history.after.units["channels"][3:] == (12, 12, 16, 16, 16)
    assert len(find_widths(find_blocks(vit(), within="vit.layers")).narrowable) == 4
    one_stays = structures.widths_of(find_blocks(vit()), WidthSettings(), {2})
    assert one_stays.narrowable == [], "one number for all"


def test_a_run_that_lands_on_its_target_to_the_mac_ends(parent):
    before = Cost(1_000_000_007, 1)
    for share in (0.1, 0.3, 0.55, 0.7):
        target = Target(macs_reduction=share)
        most = target.most_macs(before.macs)
        assert target.is_met(before, Cost(most, 1), 1)
        assert not target.is_met(before, Cost(most + 1, 1), 1)
        assert abs(most - (1 - share) * before.macs) <= 1
    assert Target(macs_reduction=0.1).most_macs(10) == 9


def test_units_are_left_alone_where_only_blocks_are_too_many(parent):
    history = _prune(parent, structures=["blocks", "widths"], target={"blocks": 2}).history
    assert [step.removed_units for step in history.steps] == [{}, {}, {}]


def test_what_a_clock_chose_is_kept_while_it_is_healed(parent, tmp_path, monkeypatch):
    _clocked(monkeypatch, 1e-5)
    fields = {"structures": ["blocks", "widths"], "target": {"latency_ms": 1.5}, "heal": HealConfig(epochs=1, when=1)}
    whole = _prune(parent, output_dir=tmp_path / "whole", **fields)
    trained = healing.train_model

    def dying(*given, **named):
        raise RuntimeError("power cut")

    monkeypatch.setattr(healing, "train_model", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        _prune(parent, output_dir=tmp_path / "cut", **fields)
    monkeypatch.setattr(healing, "train_model", trained)
    _clocked(monkeypatch, 1.02e-5)  # another day, another clock
    kept = json.loads((tmp_path / "cut" / "training-choice.json").read_text())
    monkeypatch.setattr(choose.Chooser, "options", lambda *given: pytest.fail("it was chosen before"))
    with pytest.raises(pytest.fail.Exception):
        _prune(parent, output_dir=tmp_path / "cut", **fields)
    step = json.loads((tmp_path / "cut" / "iteration-001" / "step.json").read_text())
    assert step["choice"] == kept["choice"] == json.loads(json.dumps(vars(whole.history.steps[1].choice)))
    assert step["cost"]["latency"]["median_ms"] == kept["cost"]["latency"]["median_ms"]


def test_where_a_block_cannot_be_expressed_units_or_the_next_one_go(parent, monkeypatch):
    _clocked(monkeypatch, 1e-5)
    built, refused = structures.BlockRemoval.built, []

    def refusing(self, *, copy):
        if self.blocks == [2]:
            refused.append(self.blocks)
            raise NotRemovableError("not this one")
        return built(self, copy=copy)

    monkeypatch.setattr(structures.BlockRemoval, "built", refusing)
    for target in ({"macs_reduction": 0.5}, {"latency_ms": 1.5}):
        history = _prune(parent, structures=["blocks", "widths"], target=target).history
        assert 2 in history.after.remaining
        for step in history.steps[1:]:
            assert step.choice is None or step.choice.taken == ("blocks" if step.removed else "widths")
    monkeypatch.setattr(
        structures.BlockRemoval, "built", lambda self, copy: refusing(replace(self, blocks=[2]), copy=0)
    )
    history = _prune(parent, structures=["blocks", "widths"], min_blocks_per_stage=2).history
    assert len(history.after.remaining) == 4, "units alone"


def test_a_network_with_fixed_blocks_can_be_narrowed_all_the_same():
    model = har_resnet(depths=[1, 1, 1])
    history = _prune(model, structures=["widths"], target={"macs_reduction": 0.3}).history
    assert history.macs_reduction(history.after) >= 0.3
