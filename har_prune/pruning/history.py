"""The record of a run: frozen values that round-trip through JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from har_prune.evaluation.quality import Quality


@dataclass(frozen=True)
class ScoredBlock:
    """Importance of one candidate.

    Args:
        block: Its index in the original network.
        name: Its dotted module path at the time.
        importance: Higher = keep.
        samples: Examples it was measured on; in a race fewer for blocks that were dropped early.
        interval: Bootstrap interval of the importance, where one was asked for.
    """

    block: int
    name: str
    importance: float
    samples: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class RaceRecord:
    """How a race ended.

    Args:
        ended: "decided": one block was left. "tie": those left are equal within the margin. "budget": the data ended.
        tied: Blocks left at the end, as indices in the original network.
        tie_broken_by: How one of several was chosen; None when one was left.
    """

    ended: str
    tied: tuple[int, ...]
    tie_broken_by: str | None


@dataclass(frozen=True)
class Calibration:
    """How the scores of an iteration were measured.

    Args:
        criterion: What was measured.
        samples: Examples seen.
        seed: Seed of the iteration's data order, of the bootstrap and of what the criterion drew.
        reference: "current" or "original".
        precision: "fp32" (the weights' own type) or "bf16".
        estimator: "exact", or the approximation and its error.
        layout: How the work was cut (see `Layout`); a run keeps the one it first chose.
        block_evaluations: Blocks run, each counted once for every example.
        race: How the race ended; None without one.
    """

    criterion: str
    samples: int
    seed: int
    reference: str
    precision: str
    estimator: str
    layout: dict[str, Any] | None
    block_evaluations: int
    race: RaceRecord | None = None


@dataclass(frozen=True)
class PruningStep:
    """One iteration. Iteration 0 is the unpruned network.

    Args:
        iteration: 0, 1, 2, ...
        removed: Blocks removed in this iteration, as indices in the original network.
        remaining: Blocks left, as indices in the original network.
        scores: Every candidate with its importance before the removal.
        calibration: How they were measured; None for the unpruned network.
        quality: Quality after healing by data split; choices look at "validation" only.
        macs: Multiply-accumulates of one example.
        parameters: Number of parameters.
        healed: Whether the network was trained in this iteration.
        samples_seen: Training examples seen in this iteration.
        weights_sha256: Digest of the weights, to tell networks apart.
        latency_ms: Median time of one example; None when not measured. A timing: differs between runs.
        seconds: Time the iteration took. A timing: differs between runs.
    """

    iteration: int
    removed: tuple[int, ...]
    remaining: tuple[int, ...]
    scores: tuple[ScoredBlock, ...]
    calibration: Calibration | None
    quality: dict[str, Quality]
    macs: int
    parameters: int
    healed: bool
    samples_seen: int
    weights_sha256: str
    latency_ms: float | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PruningStep":
        """The inverse of `to_json`, also after a trip through a file."""
        return cls(**{
            **value,
            "removed": tuple(value["removed"]),
            "remaining": tuple(value["remaining"]),
            "scores": tuple(_scored_block(score) for score in value["scores"]),
            "calibration": _calibration(value["calibration"]),
            "quality": {split: Quality(**quality) for split, quality in value["quality"].items()},
        })  # fmt: skip


@dataclass(frozen=True)
class PruningHistory:
    """A whole run.

    Args:
        recipe: The resolved recipe, or the `PruneConfig` of a call from Python.
        seed: Seed of everything random.
        environment: Versions, machine and commit (see `har_prune.environment`).
        iterations: The steps, the unpruned network first.
        selected: Iteration whose network is the result.
    """

    recipe: dict[str, Any]
    seed: int
    environment: dict[str, Any] = field(default_factory=dict)
    iterations: tuple[PruningStep, ...] = ()
    selected: int = 0

    @property
    def removed(self) -> list[int]:
        """Blocks removed from the selected network, in order, as indices in the original network."""
        return [block for step in self.iterations[: self.selected + 1] for block in step.removed]

    def macs_reduction(self, step: PruningStep) -> float:
        """Share of the unpruned MACs a step has removed, in [0, 1)."""
        return 1 - step.macs / self.iterations[0].macs

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values: the content of history.json."""
        return {**asdict(self), "iterations": [step.to_json() for step in self.iterations]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PruningHistory":
        """The inverse of `to_json`, also after a trip through a file."""
        return cls(**{**value, "iterations": tuple(PruningStep.from_json(step) for step in value["iterations"])})


def _scored_block(value: dict[str, Any]) -> ScoredBlock:
    interval = value["interval"]
    return ScoredBlock(**{**value, "interval": None if interval is None else tuple(interval)})


def _calibration(value: dict[str, Any] | None) -> Calibration | None:
    if value is None:
        return None
    race = value["race"]
    return Calibration(**{**value, "race": race and RaceRecord(**{**race, "tied": tuple(race["tied"])})})
