"""What is measured of the networks of a run; the recipe's `evaluate` section."""

from typing import Any

import torch
from pydantic import Field, field_validator

from har_prune.runtime.settings import Settings


class LatencyBudget(Settings):
    """Most time that a forward may take, and how it is taken."""

    at_most: float = Field(gt=0, description="milliseconds, median")
    batch: int = Field(1, ge=1, description="examples in a forward")
    threads: int | None = Field(None, ge=1, description="CPU threads; null: one for a small network, else all")
    device: str | None = Field(None, description="cpu or cuda; null: where the run computes")

    @field_validator("device")
    @classmethod
    def _here(cls, device: str | None) -> str | None:
        kind = (device or "cpu").partition(":")[0]
        if kind not in ("cpu", "cuda"):
            raise ValueError(f"latency is measured on cpu or cuda; this is {device!r}")
        if kind == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device {device!r} is not here: this machine has no CUDA GPU. Give cpu, or run it there")
        number = (device or "").partition(":")[2]
        if kind == "cuda" and number and not (number.isdecimal() and int(number) < torch.cuda.device_count()):
            raise ValueError(f"device {device!r} is not here: there are {torch.cuda.device_count()} GPUs, from cuda:0")
        return device


class RobustnessConfig(Settings):
    """Corrupted, attacked and other data."""

    names: tuple[str, ...] = Field(
        min_length=1,
        description="corruptions or groups of them (corruptions, extra_corruptions), attacks (fgsm, pgd), npy:FOLDER "
        "(the published CIFAR-10-C), data:FOLDER_OR_HUB_ID (another data set of the same classes)",
    )
    severities: tuple[int, ...] = Field((1, 2, 3, 4, 5), min_length=1, description="levels of each, of 1 to 5")
    samples: int | None = Field(None, ge=1, description="examples, drawn with the seed; null: all of the test split")
    seed: int = Field(0, ge=0, description="seed of the corruptions and of the draw")

    @field_validator("severities")
    @classmethod
    def _levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not set(levels) <= {1, 2, 3, 4, 5} or len(set(levels)) < len(levels):
            raise ValueError("each is a number from 1 to 5, named once")
        return levels


class EvaluateConfig(Settings):
    """What is measured beside the metrics, which always are."""

    latency: bool = Field(True, description="time one example of each network, in turns with the original")
    energy: bool = Field(
        False, description="estimate the energy of one example with codecarbon (pip install 'har_prune[energy]')"
    )
    robustness: RobustnessConfig | None = Field(
        None, description="of the original, of each healed network and of the controls; a list of names will do"
    )

    @field_validator("robustness", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return {"names": value} if isinstance(value, list | tuple) else value
