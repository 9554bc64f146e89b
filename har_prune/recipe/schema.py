"""The recipe: one YAML file says a whole run.

The sections are the settings of the rooms themselves (`DataConfig`, `TrainConfig`, `PruneSettings`, `HealConfig`), so
each key has its type, default and range in one place. Only run.py and cli.py know recipes.
"""

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from har_prune.checkpoints.load import Checkpoint
from har_prune.checkpoints.provenance import is_hub_id
from har_prune.data.config import DataConfig
from har_prune.errors import RecipeError, did_you_mean
from har_prune.evaluation.config import EvaluateConfig
from har_prune.pruning.config import PruneSettings
from har_prune.training.config import HealConfig, TrainConfig


class ModelConfig(BaseModel):
    """The unpruned network: a checkpoint, or a config to train from scratch."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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


class SaveConfig(BaseModel):
    """What happens to the result beside being saved in output_dir."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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


class Recipe(BaseModel):
    """A whole run."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    seed: int = Field(0, ge=0, lt=2**31, description="seed of everything random")
    output_dir: Path = Field(description="where the run is kept; started again there, it continues")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "fp32", description="autocast while training; auto: bf16 where the processor computes in it"
    )
    num_threads: int | None = Field(None, ge=1, le=4096, description="CPU threads a process; null: cores / processes")
    log_with: tuple[str, ...] = Field((), description="trackers of accelerate beside metrics.jsonl, e.g. tensorboard")
    data: DataConfig
    model: ModelConfig
    train: TrainConfig | None = Field(None, description="left out: the checkpoint is trained already")
    prune: PruneSettings
    heal: HealConfig | None = Field(None, description="left out: no training after removals")
    evaluate: EvaluateConfig = EvaluateConfig()
    save: SaveConfig = SaveConfig()

    @field_validator("output_dir")
    @classmethod
    def _home(cls, path: Path) -> Path:
        return path.expanduser()

    @model_validator(mode="after")
    def _trained(self) -> "Recipe":
        if self.model.config is not None and self.train is None:
            raise ValueError("model.config gives random weights: add a train section, or use model.name_or_path")
        return self

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The resolved recipe without what changes no result (place, trackers, pushing), as plain JSON values."""
        return self.model_dump(mode="json", exclude={"output_dir", "log_with", "save"})


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: A YAML file.
        overrides: "key=value" by dotted path, e.g. "prune.target.macs_reduction=0.4"; the value is read as YAML.

    Raises:
        RecipeError: The file is missing or not a YAML mapping, or keys or values are wrong: all of them at once.
    """
    if not path.is_file():
        raise RecipeError(f"recipe {path} {'is not a file' if path.exists() else 'does not exist'}.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise RecipeError(f"recipe {path} is not a mapping of keys to values.")
        for override in overrides or ():
            _apply(values, override)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {error}") from error
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"recipe {path} has {len(problems)} problem(s):\n" + "\n".join(problems)) from error


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r} is not key=value, e.g. prune.target.macs_reduction=0.4.")
    *sections, key = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"override {override!r}: {section!r} is not a section.")
        values = inner
    try:
        values[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not YAML ({error}).") from error


def _explain(problem: Any) -> str:
    """One line: where, what came, what is allowed."""
    location = [str(part) for part in problem["loc"]]
    where = ".".join(location) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _keys_of(location[:-1])
        return f"  {where}: unknown key.{did_you_mean(location[-1], known)} Known here: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"  {where}: missing."
    message = problem["msg"].removeprefix("Value error, ")
    came = f" (got {problem['input']!r})" if not isinstance(problem["input"], (dict, BaseModel)) else ""
    return f"  {where}: {message}{came}."


def _keys_of(location: list[str]) -> list[str]:
    """The keys a section of the recipe may have."""
    model: Any = Recipe
    for part in location:
        annotation = model.model_fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)
