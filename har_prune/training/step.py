"""One step of a training: the optimizer, its schedule, the parts of a batch."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from har_prune.errors import DataError
from har_prune.runtime.batches import IGNORED, LABELS, rows_of, size_of
from har_prune.training.config import TrainConfig
from har_prune.training.distill import Loss
from har_prune.training.logits import Logits


class Stepper:
    """One optimiser step on one batch, in as many parts as `accumulation` says."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        total_steps: int,
        loss_of: Loss,
        accelerator: Accelerator,
    ):
        self.model, self.optimizer, self.loss_of, self.accelerator = model, optimizer, loss_of, accelerator
        self.config, self.factor = config, learning_rate_factor(config, total_steps)
        self.logits = Logits(model, accelerator, graph=config.cuda_graphs)

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def _parts(self, batch: Mapping[str, Tensor]) -> list[Mapping[str, Any]]:
        count, size = self.config.accumulation, size_of(batch)
        if size % count:
            raise DataError(
                f"accumulation={count} does not divide a batch of {size} examples: choose a divisor, another "
                "batch_size, or drop_last=True where the last batch is smaller."
            )
        return [rows_of(batch, slice(start, start + size // count)) for start in range(0, size, size // count)]

    def _shares(self, parts: list[Mapping[str, Any]]) -> list[float] | Tensor:
        """What the mean loss of each part counts for, so that each example, or each token predicted, counts alike."""
        if not self.loss_of.language_model or len(parts) * self.accelerator.num_processes == 1:
            return [1 / len(parts)] * len(parts)
        counts = torch.stack([(part[LABELS][:, 1:] != IGNORED).sum() for part in parts]).float()
        # Gradients of processes are averaged, so that the whole batch's mean is of the mean count of a process.
        return counts / self.accelerator.reduce(counts.sum(), "mean").clamp(min=1)

    def __call__(self, batch: Mapping[str, Tensor], step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self.factor(step)
        loss = torch.zeros((), device=self.accelerator.device)
        parts = self._parts(batch)
        for number, (part, share) in enumerate(zip(parts, self._shares(parts), strict=True), start=1):
            with nullcontext() if number == len(parts) else self.accelerator.no_sync(self.model):
                own = self.loss_of(self.logits, part) * share
                self.accelerator.backward(own)
            loss += own.detach()
        if self.config.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def make_optimizer(model: PreTrainedModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer; biases and normalisations have no weight decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov, fused=True
        )
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def learning_rate_factor(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    """What the peak learning rate is multiplied by, from the number of the step."""
    warmup = round(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return config.drop ** sum(step >= share * total_steps for share in config.milestones)
        if config.schedule == "linear":
            return 1 - (step - warmup) / max(1, total_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return factor
