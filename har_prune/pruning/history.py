"""The record of a run: frozen values that round-trip through JSON."""

from dataclasses import asdict, dataclass, field
from typing import Any

from har_prune.evaluation.quality import Quality


@dataclass(frozen=True)
class ScoredBlock:
    """Importance of one candidate; `block` is its index in the original network, `name` its path at the time."""

    block: int
    name: str
    importance: float


@dataclass(frozen=True)
class PruningStep:
    """One iteration. Iteration 0 is the unpruned network.

    Args:
        iteration: 0, 1, 2, ...
        removed: Blocks removed in this iteration, as indices in the original network.
        remaining: Blocks left, as indices in the original network.
        scores: Every candidate with its importance before the removal.
        calibration_samples: Examples the scores were measured on.
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
    calibration_samples: int
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
            "scores": tuple(ScoredBlock(**score) for score in value["scores"]),
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
