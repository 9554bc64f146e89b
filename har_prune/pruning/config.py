"""What to prune and when to stop; `PruneSettings` is the recipe's `prune` section."""

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field, model_validator

from har_prune.evaluation.config import EvaluateConfig
from har_prune.pruning.target import Target
from har_prune.runtime.settings import Settings
from har_prune.scoring.config import CalibrationConfig
from har_prune.training.config import HealConfig, TrainConfig

Control = Literal["scratch", "scratch_full", "original", "random", "last"]


Controls = Annotated[
    tuple[Control, ...],
    Field(
        description="networks trained beside the result, each with as many examples and the same schedule as all its "
        "healing: scratch (its architecture from random weights), original, random and last (other blocks removed); "
        "scratch_full is scratch on labels with the schedule of train, as many examples as train and all healing have"
    ),
]


def check_controls(controls: tuple[Control, ...], heal: HealConfig | None, train: TrainConfig | None) -> None:
    """Refuses controls that there is nothing to compare by.

    Raises:
        ValueError: There is no healing, or no training to do in full, or one control is named twice.
    """
    if controls and heal is None:
        raise ValueError("controls are trained as the result is healed: give a heal section, or leave them out")
    if "scratch_full" in controls and train is None:
        raise ValueError("control scratch_full is trained as the original was: it needs a recipe with a train section")
    if len(set(controls)) < len(controls):
        raise ValueError(f"controls name one of them twice: {', '.join(controls)}")


class WidthSettings(Settings):
    """How units inside blocks are chosen."""

    criterion: str = Field("l1_norm", description="importance of a unit: l1_norm, activation, taylor, random")
    kinds: tuple[str, ...] | None = Field(
        None, min_length=1, description="what is narrowed, e.g. [channels]; null: all that the network has"
    )
    ranking: Literal["network", "layer"] = Field(
        "network",
        description="network: units of all blocks together, each importance over the mean of its block; layer: the "
        "same share of every block",
    )
    min_units: int = Field(1, ge=1, description="units that stay in each block")
    step: float = Field(
        0.05, gt=0, lt=1, description="share of the unpruned MACs that goes in a step in which no block can"
    )


class PruneSettings(Settings):
    """How blocks, and units inside them, are chosen."""

    target: Target
    structures: tuple[Literal["blocks", "widths"], ...] = Field(
        ("blocks",),
        min_length=1,
        description="what is removed; [blocks, widths]: at each step a block, or units of as many MACs (under a "
        "latency budget: of as many milliseconds), whichever leaves the representation closer to the reference by CKA",
    )
    widths: WidthSettings = WidthSettings()
    criterion: str = Field("cka", description='an importance criterion, or "consensus(a, b, ...)"')
    calibration: CalibrationConfig = CalibrationConfig()
    reference: Literal["current", "original"] = Field(
        "current", description="compare with the network of this iteration (the paper's code) or with the unpruned one"
    )
    representation: str | None = Field(None, description="module to compare at; null: input of the classifier")
    guards: Literal["default", "paper"] = Field(
        "default", description="paper: the first block of each stage stays, and two blocks in each"
    )
    min_blocks_per_stage: int = Field(1, ge=1, description="blocks that stay in each stage")
    protected: tuple[int | str, ...] = Field(
        (), description="blocks that stay as they are: their indices or names in the given network"
    )

    @model_validator(mode="after")
    def _possible(self) -> "PruneSettings":
        if len(set(self.structures)) < len(self.structures):
            raise ValueError(f"structures name one of them twice: {', '.join(self.structures)}")
        if self.structures == ("widths",) and self.target.blocks is not None:
            raise ValueError("target.blocks asks for fewer blocks, and structures: [widths] removes none")
        if self.widths != WidthSettings() and "widths" not in self.structures:
            raise ValueError("widths would change nothing: give structures: [blocks, widths], or leave widths out")
        return self

    @property
    def is_timed(self) -> bool:
        """Whether units are matched with blocks by a clock: they compete, and time is the only budget."""
        return set(self.structures) == {"blocks", "widths"} and set(self.target.budgets) == {"latency_ms"}

    @property
    def floor(self) -> int:
        """Blocks that stay in each stage."""
        return max(2, self.min_blocks_per_stage) if self.guards == "paper" else self.min_blocks_per_stage


class RunConfig(Protocol):
    """What `prune` reads: a `PruneConfig`, or a recipe, which holds the same beside what is not `prune`'s."""

    @property
    def prune(self) -> PruneSettings:
        """How blocks are chosen."""

    @property
    def train(self) -> TrainConfig | None:
        """How the original was trained; None = nobody says."""

    @property
    def heal(self) -> HealConfig | None:
        """Training after removals; None = none."""

    @property
    def controls(self) -> tuple[Control, ...]:
        """What the result is compared with."""

    @property
    def evaluate(self) -> EvaluateConfig:
        """What is measured."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""

    @property
    def output_dir(self) -> Path | None:
        """Where iterations are kept and resumed; None = nowhere."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to continue in an output folder, as plain JSON values."""


class PruneConfig(PruneSettings):
    """Everything `prune` needs beside model and data."""

    heal: HealConfig | None = Field(None, description="null: no training after removals")
    controls: Controls = ()
    evaluate: EvaluateConfig = EvaluateConfig()
    seed: int = Field(0, ge=0)
    output_dir: Path | None = Field(None, description="where iterations are kept and resumed; null: nowhere")

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        if isinstance(values, dict) and "latency" in values:
            warnings.warn("PruneConfig.latency is now evaluate.latency (since 0.2)", DeprecationWarning, stacklevel=2)
            values = {**values, "evaluate": {"latency": values["latency"]}}
            del values["latency"]
        return values

    @model_validator(mode="after")
    def _comparable(self) -> "PruneConfig":
        check_controls(self.controls, self.heal, self.train)
        return self

    @property
    def prune(self) -> PruneSettings:
        """How blocks are chosen: these settings themselves."""
        return self

    @property
    def train(self) -> None:
        """The original comes trained."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to continue in an output folder; controls may be added later."""
        when = {"checkpoint_minutes": True}
        return self.model_dump(
            mode="json", exclude={"output_dir": True, "controls": True, "heal": {**when, "final": when}}
        )
