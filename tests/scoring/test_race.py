from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator, debug_launcher
from families import har_transformer

from har_prune import BlockScore, Race, RaceConfig, Scores, ScoringConfig, race_blocks, score_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.errors import UnknownCriterionError
from har_prune.scoring.race import judge


def _graded(last: float = 0.02):
    """A network whose block 3 matters least, by far or by a margin that `last` sets."""
    torch.manual_seed(0)
    model = har_transformer()
    with torch.no_grad():
        for layer, size in zip(model.har_transformer.layers, (1.0, 0.8, 0.6, last), strict=True):
            layer.attention.output.weight *= 20 * size
            layer.feed_forward[2].weight *= 20 * size
    return model


def _race(model, batches, race, **options):
    return score_blocks(model, batches, config=ScoringConfig(race=race), **options)


def _batches(model, count=20, size=64):
    return [example_inputs(model, batch_size=size, seed=seed) for seed in range(count)]


def test_a_clear_race_is_decided_early_and_costs_less():
    model = _graded()
    batches = _batches(model)
    race = _race(model, batches, RaceConfig(tie_margin=0))
    full = score_blocks(model, batches)
    assert race.winner == min(full, key=lambda score: score.importance).index == 3
    assert (race.race.ended, race.race.tied) == ("decided", (3,))
    assert race.samples == 256
    assert race.block_evaluations == 256 * (4 + 3 + 2 + 1 + 0)
    assert [score.index for score in race] == [0, 1, 2, 3]


def test_dropped_blocks_cost_nothing_from_then_on():
    model = _graded(last=1.0)  # block 2 stays close to block 3
    race = _race(model, _batches(model), RaceConfig(tie_margin=0, first=64))
    seen = {score.index: score.samples for score in race}
    assert seen[0] < race.samples, "block 0 was dropped before the end"
    cost = {index: 3 - index for index in range(4)}
    assert race.block_evaluations == 4 * race.samples + sum(cost[index] * seen[index] for index in seen)


def test_the_least_important_goes_and_the_earliest_of_equals():
    column = tuple(BlockScore(i, str(i), importance, 8) for i, importance in enumerate([0.3, 0.1, 0.1, 0.2]))
    scores = Scores({"cka": column}, 8, None, 0, {})
    assert scores.least() == [1, 2, 3, 0]
    # Of a race those come first that it left, whatever a dropped block had when it was dropped.
    assert replace(scores, race=Race("tie", (0, 3))).least() == [3, 0, 1, 2]


def test_equal_blocks_are_a_tie_and_said_to_be_one():
    model = _graded()
    model.har_transformer.layers[2].load_state_dict(model.har_transformer.layers[3].state_dict())
    race = _race(model, _batches(model), RaceConfig(tie_margin=0.05))
    assert race.race.ended == "tie"
    assert set(race.race.tied) == {2, 3}
    assert race.winner in race.race.tied
    short = _race(model, _batches(model, 2), RaceConfig())  # ends before the first look
    assert (short.race.ended, short.samples, len(short.race.tied)) == ("budget", 128, 4)


def test_the_jackknife_error_is_the_error_of_the_mean():
    """For means of groups the jackknife is exact: the standard error of the mean difference."""
    groups = torch.randn((2, 32), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left_out = (groups.sum(1, keepdim=True) - groups) / 31
    importances = groups.mean(1).tolist()
    difference = (groups[1] - groups[0]) * (1 if importances[1] > importances[0] else -1)
    error = difference.std().item() / 32**0.5
    gap = abs(importances[1] - importances[0])
    quantile = 1.695518782  # Student's t, 95 %, 31 degrees of freedom, from a table
    just = gap + error * quantile
    assert judge(importances, left_out, RaceConfig(confidence=0.95, tie_margin=just + 1e-6), 2)[1]
    assert not judge(importances, left_out, RaceConfig(confidence=0.95, tie_margin=just - 1e-6), 2)[1]


def test_a_criterion_that_cannot_race_is_refused():
    model = _graded()
    for name in ("random", "consensus(cka, block_influence)"):
        with pytest.raises(UnknownCriterionError, match=r"cannot race.*Leave calibration.race out"):
            _race(model, _batches(model, 1), RaceConfig(), criterion=name)


def test_the_former_function_says_what_to_call_now():
    model = _graded()
    with pytest.warns(DeprecationWarning, match=r"race_blocks is now score_blocks\(config=ScoringConfig\(race"):
        race = race_blocks(model, _batches(model), RaceConfig(tie_margin=0))
    assert race.winner == _race(model, _batches(model), RaceConfig(tie_margin=0)).winner == 3


def _race_in_processes(path):
    torch.set_num_threads(1)  # a forked process cannot use the OpenMP threads of its parent
    model = _graded(last=0.597)
    race = _race(model, _batches(model, 8, 61), RaceConfig(first=128), accelerator=Accelerator(cpu=True))
    if Accelerator(cpu=True).is_main_process:
        torch.save((race.winner, race.samples, race.block_evaluations, [s.importance for s in race]), path)


def test_two_processes_race_like_one(tmp_path):
    debug_launcher(_race_in_processes, (tmp_path / "race.pt",), num_processes=2)
    winner, samples, evaluations, importances = torch.load(tmp_path / "race.pt")
    model = _graded(last=0.597)
    alone = _race(model, _batches(model, 8, 61), RaceConfig(first=128))
    assert (winner, samples, evaluations) == (alone.winner, alone.samples, alone.block_evaluations)
    assert importances == pytest.approx([score.importance for score in alone], abs=1e-6)
