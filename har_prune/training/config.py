"""How to train and how to heal; these classes are the recipe's `train` and `heal` sections."""

import warnings
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from har_prune.runtime.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
Removals = Annotated[int, Field(ge=1)]


class DistillConfig(Settings):
    """Distillation from the unpruned network.

    Source: Hinton et al. 2015, arXiv:1503.02531; hidden states as in FitNets, arXiv:1412.6550.
    """

    weight: Fraction = Field(0.7, description="share of the teacher in the loss; the labels have the rest")
    temperature: float = Field(2.0, gt=0, description="both softmaxes are taken of logits / temperature")
    hidden: float = Field(
        0.0, ge=0, description="weight of the squared distance of hidden states behind blocks both networks have"
    )
    originals: int = Field(
        1, ge=1, description="teachers whose logits are averaged; above 1 more originals are trained, each of a seed"
    )


class TrainConfig(Settings):
    """One training run."""

    epochs: float = Field(gt=0, description="passes over the training data; may be a fraction")
    learning_rate: float = Field(1e-3, gt=0, description="peak, after the warm-up")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has Nesterov momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(
        0.01,
        ge=0,
        description="not on biases and normalisations, and in proportion to the learning rate: adamw takes rate x "
        "this off the weights in a step; sgd adds it to the gradient, so that momentum makes it 1 / (1 - momentum) "
        "times as much",
    )
    schedule: Literal["cosine", "linear", "step", "constant"] = Field("cosine", description="after the warm-up")
    warmup: Fraction = Field(0.1, description="share of the steps with a rising learning rate")
    milestones: tuple[Fraction, ...] = Field((0.5, 0.75), description="step: shares of the run where the rate drops")
    drop: float = Field(0.1, gt=0, lt=1, description="step: the rate is multiplied by this at each milestone")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; null: not")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    layer_drop: float = Field(
        0.0, ge=0, lt=1, description="probability that a step leaves out a removable block (arXiv:1909.11556)"
    )
    accumulation: int = Field(1, ge=1, description="parts a batch is computed in, for less memory; divides batch_size")
    parameters: Literal["all", "norms_and_head", "lora"] = Field(
        "all", description="what is trained; lora: low-rank updates (extra peft), merged before the network is saved"
    )
    keep: Literal["best", "last", "average"] = Field(
        "best",
        description="best: the epoch that validates best; average: the mean of the last weights, with statistics of "
        "batch normalisation estimated anew",
    )
    average_last: Fraction = Field(0.2, description="average: share of the steps whose weights are averaged")
    validate_every: int = Field(1, ge=1, description="best: epochs between two validations")
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="minutes between two saves that an interrupted training goes on from"
    )
    cuda_graphs: bool = Field(
        False,
        description="replays the network from a CUDA graph, so that a small one does not wait for the CPU; on one "
        "GPU, for batches of one shape, without layer_drop, accumulation and distill.hidden; elsewhere no effect",
    )

    @model_validator(mode="after")
    def _recordable(self) -> "TrainConfig":
        if self.cuda_graphs and (self.layer_drop or self.accumulation > 1):
            raise ValueError("cuda_graphs replays the same work in every step: no layer_drop, and accumulation 1")
        return self


class HealConfig(TrainConfig):
    """Training after removals."""

    distill: DistillConfig | None = Field(None, description="true: with the defaults; null or false: labels alone")
    when: Removals | Literal["end"] = Field(
        "end",
        description="removals between two healings; end: once, when no more blocks go. A network that meets the "
        "target is always healed, and with min_accuracy every network that may be the last one is",
    )
    final: TrainConfig | None = Field(
        None, description="with a number in `when`: another schedule for the last healing"
    )

    @model_validator(mode="before")
    @classmethod
    def _former(cls, values: Any) -> Any:
        if isinstance(values, dict) and "interval" in values:
            warnings.warn("heal.interval is now heal.when (since 0.2)", DeprecationWarning, stacklevel=2)
            values = {"when": values["interval"], **{key: values[key] for key in values if key != "interval"}}
        return values

    @field_validator("distill", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return DistillConfig() if value is True else None if value is False else value

    @model_validator(mode="after")
    def _hidden_recordable(self) -> "HealConfig":
        if self.cuda_graphs and self.distill is not None and self.distill.hidden:
            raise ValueError("cuda_graphs shows no hidden states: set distill.hidden to 0, or cuda_graphs to false")
        return self

    @model_validator(mode="after")
    def _one_last(self) -> "HealConfig":
        if self.final is not None and self.when == "end":
            raise ValueError("final is another schedule for the last of several healings: give `when` a number")
        return self
