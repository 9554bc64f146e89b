"""The record of a run: frozen values that round-trip through JSON."""

import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from har_prune.errors import FormatError
from har_prune.evaluation import measurement
from har_prune.evaluation.cost import Cost
from har_prune.evaluation.latency import Latency
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.upgrade import upgraded_history, upgraded_step

FORMAT = 1  # of history.json and step.json


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
        execution_plan: How the work was cut (see `ExecutionPlan`); a run keeps the one it first chose.
        block_evaluations: Blocks run, each counted once for every example.
        race: How the race ended; None without one.
    """

    criterion: str
    samples: int
    seed: int
    reference: str
    precision: str
    estimator: str
    execution_plan: dict[str, Any] | None
    block_evaluations: int
    race: RaceRecord | None = None


@dataclass(frozen=True)
class Choice:
    """How an iteration chose between a block and units inside blocks.

    Args:
        taken: "blocks" or "widths".
        similarity: {structure: CKA, to the reference, of the representation it would leave}; the higher was taken.
        macs: {structure: multiply-accumulates it would leave}.
    """

    taken: str
    similarity: dict[str, float]
    macs: dict[str, int]


@dataclass(frozen=True)
class Healing:
    """How a network was trained after a removal.

    Args:
        samples_seen: Training examples, repeats counted.
        steps: Optimiser steps; None in records of 0.1.
        best_epoch: Epoch whose weights were kept; None in records of 0.1.
    """

    samples_seen: int
    steps: int | None = None
    best_epoch: float | None = None


@dataclass(frozen=True)
class PruningStep:
    """One iteration. Iteration 0 is the unpruned network.

    Args:
        iteration: 0, 1, 2, ...
        removed: Blocks removed in this iteration, as indices in the original network.
        remaining: Blocks left, as indices in the original network.
        scores: Every candidate with its importance before the removal.
        calibration: How they were measured; None for the unpruned network.
        cost: What one example costs.
        metrics: How well it does after healing, by data split; choices look at "validation" only.
        healing: How it was trained in this iteration; None where it was not.
        weights_sha256: Digest of the weights, to tell networks apart.
        seconds: Time the iteration took. A timing: differs between runs.
        measured: What else was measured, by name (see `evaluation.measurement`); each is a key of its own in JSON.
        removed_units: {kind: units inside blocks removed in this iteration}.
        units: {kind: units of each remaining block}; empty where only blocks are removed.
        choice: How it was chosen between blocks and units, where both could go.
    """

    iteration: int
    removed: tuple[int, ...]
    remaining: tuple[int, ...]
    scores: tuple[ScoredBlock, ...]
    calibration: Calibration | None
    cost: Cost
    metrics: dict[str, EvalMetrics]
    healing: Healing | None
    weights_sha256: str
    seconds: float
    measured: dict[str, Any] = field(default_factory=dict)
    removed_units: dict[str, int] = field(default_factory=dict)
    units: dict[str, tuple[int, ...]] = field(default_factory=dict)
    choice: Choice | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in _FORMER:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        new, value = _FORMER[name]
        warnings.warn(f"PruningStep.{name} is now {new} (since 0.2)", DeprecationWarning, stacklevel=2)
        return value(self)

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values: the content of step.json."""
        values = asdict(self)
        measured = values.pop("measured")
        return {"format": FORMAT, **values, **measured}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PruningStep":
        """The inverse of `to_json`, also after a trip through a file, and for steps of earlier versions.

        Raises:
            FormatError: A later version wrote it.
        """
        value = dict(value)
        if _format_of(value, None) == 0:
            value = upgraded_step(value)
        value.pop("format", None)
        known = {name: value.pop(name) for name in cls.__dataclass_fields__ if name in value}
        return cls(**{
            **known,
            "removed": tuple(known["removed"]),
            "remaining": tuple(known["remaining"]),
            "scores": tuple(_scored_block(score) for score in known["scores"]),
            "calibration": _calibration(known["calibration"]),
            "cost": cost_from_json(known["cost"]),
            "units": {kind: tuple(units) for kind, units in known.get("units", {}).items()},
            "choice": (choice := known.get("choice")) and Choice(**choice),
            "metrics": {split: EvalMetrics(**metrics) for split, metrics in known["metrics"].items()},
            "healing": known["healing"] and Healing(**known["healing"]),
            "measured": measurement.from_json(value),
        })  # fmt: skip


_FORMER = {
    "quality": ("metrics", lambda step: step.metrics),
    "macs": ("cost.macs", lambda step: step.cost.macs),
    "parameters": ("cost.parameters", lambda step: step.cost.parameters),
    "latency_ms": ("cost.latency.median_ms", lambda step: step.cost.latency and step.cost.latency.median_ms),
    "healed": ("healing", lambda step: step.healing is not None),
    "samples_seen": ("healing.samples_seen", lambda step: step.healing.samples_seen if step.healing else 0),
}


@dataclass(frozen=True)
class PruningHistory:
    """A whole run.

    Args:
        recipe: The resolved recipe, or the `PruneConfig` of a call from Python.
        seed: Seed of everything random.
        environment: Versions, machine and commit (see `har_prune.runtime.environment`).
        iterations: The steps, the unpruned network first.
        selected: Iteration whose network is the result.
        data_fingerprint: Digest of the data it was made with; None in records of 0.1.
        controls: What the result is compared with, by name, each trained as the result was healed (see
            `controls.control_network`); as steps that have no scores.
    """

    recipe: dict[str, Any]
    seed: int
    environment: dict[str, Any] = field(default_factory=dict)
    iterations: tuple[PruningStep, ...] = ()
    selected: int = 0
    data_fingerprint: str | None = None
    controls: dict[str, PruningStep] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[PruningStep, ...]:
        """Another word for `iterations`."""
        return self.iterations

    @property
    def before(self) -> PruningStep:
        """The unpruned network."""
        return self.iterations[0]

    @property
    def after(self) -> PruningStep:
        """The network that is the result."""
        return self.iterations[self.selected]

    @property
    def shown_split(self) -> Literal["test", "validation"]:
        """The split whose figures are shown: "test", or "validation" where there is none."""
        return "test" if "test" in self.before.metrics else "validation"

    @property
    def removed(self) -> list[int]:
        """Blocks removed from the selected network, in order, as indices in the original network."""
        return [block for step in self.iterations[: self.selected + 1] for block in step.removed]

    def macs_reduction(self, step: PruningStep) -> float:
        """Share of the unpruned MACs a step has removed, in [0, 1)."""
        return 1 - step.cost.macs / self.before.cost.macs

    def to_json(self) -> dict[str, Any]:
        """A dict of plain values: the content of history.json."""
        return {
            "format": FORMAT,
            **vars(self),
            "iterations": [step.to_json() for step in self.iterations],
            "controls": {name: step.to_json() for name, step in self.controls.items()},
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "PruningHistory":
        """The inverse of `to_json`, also after a trip through a file, and for histories of earlier versions.

        Raises:
            FormatError: A later version wrote it, or it is damaged.
        """
        value = dict(value)
        if _format_of(value, value.get("environment", {}).get("har_prune")) == 0:
            value = upgraded_history(value)
        value.pop("format")
        if not 0 <= value["selected"] < len(value["iterations"]):
            raise FormatError(f"iteration {value['selected']} is selected, and there are {len(value['iterations'])}.")
        return cls(**{
            **value,
            "iterations": tuple(PruningStep.from_json(step) for step in value["iterations"]),
            "controls": {name: PruningStep.from_json(step) for name, step in value.get("controls", {}).items()},
        })  # fmt: skip


def _format_of(value: dict[str, Any], version: str | None) -> int:
    """The format of a record; those of 0.1 have no number."""
    found = value.get("format", 0)
    if found not in range(FORMAT + 1):
        wrote = "a later version of har_prune" if version is None else f"har_prune {version}"
        raise FormatError(
            f"this record has format {found!r}, written by {wrote}; this version reads formats 0 to {FORMAT}. "
            f"Install {wrote.replace('har_prune ', 'har_prune==') if version else 'that version'} to read it."
        )
    return int(found)


def _scored_block(value: dict[str, Any]) -> ScoredBlock:
    interval = value["interval"]
    return ScoredBlock(**{**value, "interval": None if interval is None else tuple(interval)})


def cost_from_json(value: dict[str, Any]) -> Cost:
    """A cost after a trip through a file."""
    return Cost(**{**value, "latency": value["latency"] and _latency(value["latency"])})


def _latency(value: dict[str, Any]) -> Latency:
    interval = value.get("interval_ms")
    return Latency(**{**value, "interval_ms": None if interval is None else tuple(interval)})


def _calibration(value: dict[str, Any] | None) -> Calibration | None:
    if value is None:
        return None
    race = value["race"]
    return Calibration(**{**value, "race": race and RaceRecord(**{**race, "tied": tuple(race["tied"])})})
