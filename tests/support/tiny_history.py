"""The record of a run of one removal, for what shows or saves records."""

from har_prune import Cost, EvalMetrics
from har_prune.pruning.history import Calibration, PruningHistory, PruningStep, RaceRecord, ScoredBlock


def history():
    metrics = {"validation": EvalMetrics(0.9, 0.88, 0.3, 40), "test": EvalMetrics(0.85, 0.8, 0.4, 40)}
    race = RaceRecord("tie", (1, 2), "lowest importance")
    how = Calibration("cka", 64, 1, "current", "fp32", "exact", {"micro_batch": 8}, 640, race)
    scores = (ScoredBlock(1, "a.1", 0.1, 64, (0.05, 0.2)), ScoredBlock(2, "a.2", 0.1, 32))
    steps = tuple(
        PruningStep(
            n, (2,) * n, (0, 1, 2, 3)[: 4 - n], scores[: 2 * n], how if n else None,
            Cost(1000 - 200 * n, 500, 2000, 64), metrics, None, "", 2.0,
        )
        for n in (0, 1)
    )  # fmt: skip
    recipe = {"data": {"name_or_path": "data/wharf"}, "prune": {"criterion": "cka"}}
    return PruningHistory(recipe, 0, {"torch": "2"}, steps, selected=1)
