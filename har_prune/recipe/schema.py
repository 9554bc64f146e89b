"""The recipe: one YAML file says a whole run.

The sections are the settings of the rooms themselves (`DataConfig`, `TrainConfig`, `PruneSettings`, `HealConfig`), so
each key has its type, default and range in one place. Only recipe/ and commands/ know recipes.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from har_prune.checkpoints.load import Checkpoint
from har_prune.checkpoints.provenance import is_hub_id
from har_prune.data.config import DataConfig
from har_prune.evaluation.config import EvaluateConfig
from har_prune.pruning.config import Controls, PruneSettings, check_controls
from har_prune.runtime.settings import Settings
from har_prune.training.config import HealConfig, TrainConfig

_WHEN = {"checkpoint_minutes": True}
_NO_RESULT = dict.fromkeys(
    ("output_dir", "original_from", "log_with", "save", "controls", "seeds", "folds_in_parallel"), True
)


class ModelConfig(Settings):
    """The unpruned network: a checkpoint, or a config to train from scratch."""

    name_or_path: str | None = Field(None, min_length=1, description="folder or Hub id of a checkpoint")
    revision: str | None = Field(None, description="branch, tag or commit of a checkpoint on the Hub")
    trust_remote_code: bool = Field(False, description="run code that comes with the checkpoint; read it first")
    config: dict[str, Any] | None = Field(None, description="model_type and fields of a config; needs a train section")

    @model_validator(mode="after")
    def _one_origin(self) -> "ModelConfig":
        if (self.name_or_path is None) == (self.config is None):
            raise ValueError("give name_or_path or config, one of them")
        if self.config is not None and not isinstance(self.config.get("model_type"), str):
            raise ValueError("config needs a model_type, e.g. har_transformer")
        if self.name_or_path is None and (self.revision is not None or self.trust_remote_code):
            raise ValueError("revision and trust_remote_code go with name_or_path")
        return self

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The checkpoint; None where a config is given."""
        if self.name_or_path is None:
            return None
        return Checkpoint(self.name_or_path, self.revision, self.trust_remote_code)


class SaveConfig(Settings):
    """What happens to the result beside being saved in output_dir."""

    push_to_hub: str | None = Field(None, min_length=1, description="Hub repository to push the result to")
    private: bool | None = Field(None, description="for a repository that is made; null: as the account's default")
    max_shard_size: str = Field("5GB", description="largest safetensors file; above, weights are split")

    @field_validator("push_to_hub")
    @classmethod
    def _repository(cls, name: str | None) -> str | None:
        if name is not None and not is_hub_id(name):
            raise ValueError("not a repository id, owner/name")
        return name

    @field_validator("max_shard_size")
    @classmethod
    def _size(cls, size: str) -> str:
        if not re.fullmatch(r"(?=[\d.]*[1-9])\d+(\.\d+)?\s*[KMGT]i?B", size, re.IGNORECASE):
            raise ValueError("a number above 0 and a unit, e.g. 5GB or 500MB")
        return size


class Recipe(Settings):
    """A whole run."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(
        (), description="a run for each, in output_dir/seed-N; in place of seed"
    )
    folds_in_parallel: int = Field(
        1, ge=1, le=256, description="folds of test_subject 'all' that run side by side, a process each"
    )
    output_dir: Path = Field(description="where the run is kept; started again there, it continues")
    original_from: Path | None = Field(
        None, description="output_dir of a run with the same data and training, whose trained original is taken over"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast while training; auto: bf16 where the processor computes in it"
    )
    num_threads: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] | None = Field(
        None, description="CPU threads a process; auto: cores / processes; null: OMP_NUM_THREADS, else as auto"
    )
    plugins: tuple[str, ...] = Field(
        (), description="modules to import first: your own families, criteria, measurements"
    )
    log_with: tuple[str, ...] = Field((), description="trackers of accelerate beside metrics.jsonl, e.g. tensorboard")
    data: DataConfig
    model: ModelConfig
    train: TrainConfig | None = Field(None, description="left out: the checkpoint is trained already")
    refit: bool = Field(
        False, description="validation examples train as well, once they have chosen settings: nothing is chosen then"
    )
    prune: PruneSettings
    heal: HealConfig | None = Field(None, description="left out: no training after removals")
    controls: Controls = ()
    evaluate: EvaluateConfig = EvaluateConfig()
    save: SaveConfig = SaveConfig()

    @field_validator("output_dir", "original_from")
    @classmethod
    def _home(cls, path: Path | None) -> Path | None:
        return path and path.expanduser()

    @model_validator(mode="after")
    def _trained(self) -> "Recipe":
        if self.model.config is not None and self.train is None:
            raise ValueError("model.config gives random weights: add a train section, or use model.name_or_path")
        if self.original_from is not None and self.train is None:
            raise ValueError("original_from spares a training: add a train section, or use model.name_or_path")
        check_controls(self.controls, self.heal, self.train)
        distill = self.heal and self.heal.distill
        if distill and distill.originals > 1 and self.model.config is None:
            raise ValueError("heal.distill.originals above 1 trains more originals, of model.config: there is none")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names one of them twice")
        if self.seeds and self.save.push_to_hub is not None:
            raise ValueError("save.push_to_hub: seeds have a result each; push one by hand")
        return self

    @model_validator(mode="after")
    def _chosen_before(self) -> "Recipe":
        """With `refit` nothing is left that could choose."""
        if not self.refit:
            return self
        trainings = {"train": self.train, "heal": self.heal, "heal.final": self.heal and self.heal.final}
        for name, training in trainings.items():
            if training is not None and training.keep == "best":
                raise ValueError(f"refit leaves no examples to choose an epoch by: set {name}.keep to last or average")
        if self.prune.target.min_accuracy is not None:
            raise ValueError("refit leaves no examples to measure prune.target.min_accuracy by")
        return self

    @property
    def training(self) -> dict[str, Any]:
        """What the trained original follows from, of `fingerprint`."""
        return {key: self.fingerprint[key] for key in ("seed", "data", "model", "train", "refit")}

    def inside(self, name: str, **changed: Any) -> "Recipe":
        """One of the runs that this recipe means, with its own place in the folders of all."""
        places = {
            "output_dir": self.output_dir / name,
            "original_from": self.original_from and self.original_from / name,
        }
        return self.model_copy(update={**places, **changed})

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The resolved recipe without what changes no result (place, trackers, pushing, controls), as JSON values."""
        return self.model_dump(mode="json", exclude={**_NO_RESULT, "train": _WHEN, "heal": {**_WHEN, "final": _WHEN}})
