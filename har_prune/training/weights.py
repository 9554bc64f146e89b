"""Which weights of a training are kept: the best, the last, or the mean of the last."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.evaluation.metrics import EvalMetrics
from har_prune.training.config import TrainConfig

_STATISTICS_BATCHES = 64  # that batch normalisation is estimated anew from
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class KeptWeights:
    """Keeps weights while a network trains: those that validated best (accuracy, then loss, then earliest), or a mean.

    Args:
        model: The network.
        config: What to keep.
        total_steps: Steps of the training.
    """

    def __init__(self, model: PreTrainedModel, config: TrainConfig, total_steps: int):
        self.model, self.keep = model, config.keep
        self.first_averaged = total_steps - max(1, round(config.average_last * total_steps))
        self.quality: EvalMetrics | None = None
        self.epoch: float | None = None
        self._state: dict[str, Tensor] = {}
        self._averaged = 0
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}

    def offer(self, epoch: float, quality: EvalMetrics) -> None:
        """Looks at the weights of an epoch and how they validated."""
        if not math.isfinite(quality.loss):
            return
        if self.quality is None or (quality.accuracy, -quality.loss) > (self.quality.accuracy, -self.quality.loss):
            self.quality, self.epoch = quality, epoch
            self._state = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Adds the weights of a step to the mean, where they count."""
        if self.keep != "average" or step <= self.first_averaged:
            return
        self._averaged += 1
        if not self._state:
            self._state = {name: value.detach().clone() for name, value in self._parameters.items()}
            return
        means, values = list(self._state.values()), list(self._parameters.values())
        torch._foreach_lerp_(means, values, 1 / self._averaged)

    @torch.no_grad()
    def restore(self) -> bool:
        """Gives the model the weights that were kept; whether they are a mean that no batch has passed yet."""
        if not self._state:
            return False
        self.model.load_state_dict(self._state, strict=self.keep != "average")
        return self.keep == "average"

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the training holds of this."""
        quality = None if self.quality is None else vars(self.quality)
        return {"state": self._state, "averaged": self._averaged, "epoch": self.epoch, "quality": quality}

    def load_state_dict(self, value: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        device = next(self.model.parameters()).device
        self._state = {name: tensor.to(device) for name, tensor in value["state"].items()}
        self._averaged, self.epoch = value["averaged"], value["epoch"]
        self.quality = None if value["quality"] is None else EvalMetrics(**value["quality"])


@torch.no_grad()
def estimate_statistics(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], forward: Callable[[Mapping[str, Any]], Any]
) -> None:
    """Batch normalisation's means and variances for the weights as they are, over up to 64 batches.

    Args:
        model: The network; in train mode inside, in eval mode afterwards.
        batches: As in training.
        forward: Runs the network on one of them.
    """
    norms = [module for module in model.modules() if isinstance(module, _BATCH_NORMS) and module.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    model.train()
    for _, batch in zip(range(_STATISTICS_BATCHES), batches, strict=False):
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
