"""How to train and how to heal; these classes are the recipe's `train` and `heal` sections."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from har_prune.runtime.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]


class DistillConfig(Settings):
    """Distillation from the unpruned network.

    Source: Hinton et al. 2015, arXiv:1503.02531.
    """

    weight: Fraction = Field(0.7, description="share of the teacher in the loss; the labels have the rest")
    temperature: float = Field(2.0, gt=0, description="both softmaxes are taken of logits / temperature")


class TrainConfig(Settings):
    """One training run."""

    epochs: float = Field(gt=0, description="passes over the training data; may be a fraction")
    learning_rate: float = Field(1e-3, gt=0, description="peak, after the warm-up")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has Nesterov momentum")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    weight_decay: float = Field(0.01, ge=0, description="not on biases and normalisations")
    schedule: Literal["cosine", "step", "constant"] = Field("cosine", description="after the warm-up")
    warmup: Fraction = Field(0.1, description="share of the steps with a rising learning rate")
    milestones: tuple[Fraction, ...] = Field((0.5, 0.75), description="step: shares of the run where the rate drops")
    drop: float = Field(0.1, gt=0, lt=1, description="step: the rate is multiplied by this at each milestone")
    max_grad_norm: float | None = Field(1.0, gt=0, description="gradients are clipped to this norm; null: not")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    validate_every: int = Field(1, ge=1, description="epochs between two validations that pick the best weights")


class HealConfig(TrainConfig):
    """Training after removals."""

    distill: DistillConfig | None = Field(None, description="true: with the defaults; null or false: labels alone")
    interval: int = Field(
        1, ge=1, description="removals between two healings; a network that meets the target is always healed"
    )
    final: TrainConfig | None = Field(
        None, description="another schedule for the healing that ends a run by macs_reduction or blocks"
    )

    @field_validator("distill", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        return DistillConfig() if value is True else None if value is False else value
