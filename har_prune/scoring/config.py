"""How importance is measured; `CalibrationConfig` is the recipe's `prune.calibration` section."""

import warnings
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from har_prune.runtime.settings import Settings


class ExecutionPlan(Settings):
    """How the work is cut for the machine. It changes the last bits of a score and nothing else."""

    micro_batch: int = Field(ge=1, description="examples that go through the network at a time")
    workers: int = Field(1, ge=1, description="threads with a micro-batch each, instead of all cores in one")
    channels_last: bool = Field(False, description="memory format of images and convolutions")


class RaceConfig(Settings):
    """When a race between blocks drops a block, and when it ends."""

    confidence: float = Field(0.99, gt=0.5, lt=1, description="of all decisions of a race together")
    tie_margin: float = Field(1e-3, ge=0, description="importances closer than this are equal for all practical ends")
    first: int = Field(256, ge=64, description="examples before the first decision")
    growth: float = Field(1.5, gt=1, description="each decision is taken on this many times the examples")


class _Measure(Settings):
    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        if isinstance(values, dict) and "layout" in values:
            warnings.warn("calibration.layout is now execution_plan (since 0.2)", DeprecationWarning, stacklevel=2)
            values = {**values, "execution_plan": values["layout"]}
            del values["layout"]
        return values

    @field_validator("race", mode="before", check_fields=False)
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        return {} if value is True else None if value is False else value

    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: autocast, faster where the processor computes in it; fp32: the weights' own type"
    )
    interval: float | None = Field(None, gt=0.5, lt=1, description="level of a bootstrap interval for every score")
    race: RaceConfig | None = Field(
        None, description="true, or settings: look at more and more examples until the least important block is clear"
    )
    execution_plan: ExecutionPlan | None = Field(
        None, description="null: chosen by timing a few forwards, and kept with the run"
    )


class ScoringConfig(_Measure):
    """How `score_blocks` measures."""

    seed: int = Field(0, ge=0, description="of the bootstrap and of what a criterion draws")


class CalibrationConfig(_Measure):
    """On what, and how, a run measures importance."""

    samples: int = Field(1024, ge=2, description="examples the criterion sees, at most, in an iteration")

    def scoring(self, seed: int, execution_plan: ExecutionPlan | None = None) -> ScoringConfig:
        """These settings for one call of `score_blocks`; a given execution plan replaces one that is null."""
        shared = {name: getattr(self, name) for name in _Measure.model_fields}
        return ScoringConfig(**{**shared, "execution_plan": self.execution_plan or execution_plan, "seed": seed})
