"""The one training loop: it trains parents and heals pruned networks alike."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.errors import DataError, DivergedError
from har_prune.evaluation.metrics import EvalMetrics, classified, evaluate_model, is_language_model
from har_prune.runtime.batches import checked, inputs_of
from har_prune.runtime.progress import Progress
from har_prune.training.config import DistillConfig, TrainConfig


@dataclass(frozen=True)
class TrainingResult:
    """What one training run did.

    Args:
        best_epoch: Epoch whose weights were kept (by validation accuracy, then loss); the last without validation.
        steps: Optimiser steps.
        samples_seen: Training examples over all processes, repeats counted.
        validation: Quality of the kept weights on the validation data; None without.
    """

    best_epoch: float
    steps: int
    samples_seen: int
    validation: EvalMetrics | None


@dataclass(frozen=True)
class Teacher:
    """The network to distil from, and how much."""

    model: PreTrainedModel
    config: DistillConfig


def train_model(
    model: PreTrainedModel,
    train: DataLoader,
    validation: Iterable[Mapping[str, Any]] | None,
    config: TrainConfig,
    *,
    accelerator: Accelerator | None = None,
    teacher: Teacher | None = None,
    seed: int = 0,
    name: str = "train",
) -> TrainingResult:
    """Trains a classifier in place; it comes back in eval mode with the weights that validated best.

    The same arguments give the same weights, bit by bit, on the same machine: the seed decides dropout, augmentation
    and the order of examples (the loader's sampler is reseeded), whatever ran before.

    Args:
        model: A classifier with `logits` [B, num_labels] in its output, or a causal language model.
        train: Batches are dicts of model inputs with `labels` [B] (of a language model its tokens, [B, T]).
        validation: Batches that choose among epochs; None keeps the last weights.
        config: The schedule.
        accelerator: Device, precision, processes and trackers; None = a plain `Accelerator()`.
        teacher: The network to distil from, and how; without it the labels are all there is.
        seed: Seed of everything random.
        name: Prefix of the metrics sent to trackers, and the title of the progress bar.

    Raises:
        DataError: There is not one batch for each process.
        DivergedError: The loss became NaN or infinite.
    """
    accelerator, train = accelerator or Accelerator(), checked(train, "training")
    set_seed(seed, device_specific=True)
    _reseed(train, seed)
    own_dtype = model.dtype
    if own_dtype in (torch.bfloat16, torch.float16):
        model.float()  # small steps would be rounded away
    model.to(accelerator.device).train()
    if _is_convolutional(model):  # measured on CPU: a ResNet-56 step takes 0.75 of the time
        model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, config)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, train)
    steps_per_epoch = len(loader)  # of this process
    if not steps_per_epoch:
        raise DataError(f"{name}: there is not one training batch a process ({accelerator.num_processes} processes).")
    total_steps = max(1, round(config.epochs * steps_per_epoch))
    stepper = _Stepper(
        wrapped, optimizer, config, total_steps, _Loss(config, model, teacher, accelerator), accelerator
    )
    keeper = _BestWeights(model)

    step = samples = 0
    progress = Progress(name, total_steps, accelerator)
    while step < total_steps:
        for batch in loader:
            loss = stepper(batch)
            step += 1
            samples += len(batch["labels"]) * accelerator.num_processes
            progress.advance()
            if step == total_steps:
                break
        if not math.isfinite(loss.item()):
            progress.close()
            raise DivergedError(f"{name}: the loss became {loss.item()} in step {step}: lower learning_rate.")
        metrics = {f"{name}/loss": loss.item(), f"{name}/learning_rate": stepper.learning_rate}
        epoch = step / steps_per_epoch
        if validation is not None and (step == total_steps or round(epoch) % config.validate_every == 0):
            quality = _validate(model, validation, accelerator)
            keeper.offer(epoch, quality)
            metrics |= {f"{name}/validation_accuracy": quality.accuracy, f"{name}/validation_loss": quality.loss}
            progress.note(f"validation accuracy {100 * quality.accuracy:.1f} %")
        accelerator.log(metrics, step=step)
    progress.close()
    _release(accelerator, model, wrapped)
    keeper.restore()
    model.to(own_dtype)
    if not _is_finite(model) or (validation is not None and keeper.quality is None):
        raise DivergedError(f"{name}: weights or outputs became NaN or infinite: lower learning_rate.")
    return TrainingResult(keeper.epoch or step / steps_per_epoch, step, samples, keeper.quality)


def _is_convolutional(model: PreTrainedModel) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _reseed(loader: DataLoader, seed: int) -> None:
    """A loader's generators remember how much was drawn from them before; a resumed run has to draw the same."""
    generator = torch.Generator().manual_seed(seed)
    owners: tuple[Any, ...] = (loader, getattr(loader, "sampler", None))
    for owner in owners:
        if hasattr(owner, "generator"):
            owner.generator = generator


def _validate(
    model: PreTrainedModel, validation: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> EvalMetrics:
    """Metrics in the middle of training, at its precision."""
    _share_buffers(model, accelerator)
    with accelerator.autocast():
        return evaluate_model(model, validation, accelerator)


class _Stepper:
    """One optimiser step on one batch."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        total_steps: int,
        loss_of: "_Loss",
        accelerator: Accelerator,
    ):
        self.model, self.optimizer, self.loss_of, self.accelerator = model, optimizer, loss_of, accelerator
        self.max_grad_norm = config.max_grad_norm
        # On the optimizer inside: a schedule accelerate wraps would step once for each process.
        inner = getattr(optimizer, "optimizer", optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(inner, _learning_rate_factor(config, total_steps))

    @property
    def learning_rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        with self.accelerator.autocast():
            loss = self.loss_of(self.model, batch)
        self.accelerator.backward(loss)
        if self.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss


class _Loss:
    """Cross-entropy, or its mixture with the divergence from the teacher."""

    def __init__(self, config: TrainConfig, model: PreTrainedModel, teacher: Teacher | None, accelerator: Accelerator):
        self.smoothing, self.teacher = config.label_smoothing, teacher
        self.language_model = is_language_model(model)
        if teacher is not None:
            teacher.model.to(accelerator.device).eval()

    def __call__(self, model: Callable, batch: Mapping[str, Tensor]) -> Tensor:
        inputs = inputs_of(batch)
        if "labels" not in batch:
            raise DataError(f"a training batch has no labels; it has {', '.join(batch)}.")
        given = model(**inputs).logits.float()
        logits, labels = classified(given, batch["labels"], language_model=self.language_model)
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if self.teacher is None:
            return loss
        weight, temperature = self.teacher.config.weight, self.teacher.config.temperature
        with torch.no_grad():
            taught = self.teacher.model(**inputs).logits.float()
            taught, _ = classified(taught, batch["labels"], language_model=self.language_model)
            wanted = (taught / temperature).log_softmax(dim=1)
        given = (logits / temperature).log_softmax(dim=1)
        divergence = nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        # T^2 keeps the two gradients in proportion at any temperature (Hinton et al. 2015, section 2).
        return (1 - weight) * loss + weight * temperature**2 * divergence


class _BestWeights:
    """Keeps a copy of the weights that validated best: highest accuracy, then lowest loss, then earliest."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.quality: EvalMetrics | None = None
        self.epoch: float | None = None
        self._state: dict[str, Tensor] = {}

    def offer(self, epoch: float, quality: EvalMetrics) -> None:
        if not math.isfinite(quality.loss):
            return
        if self.quality is None or (quality.accuracy, -quality.loss) > (self.quality.accuracy, -self.quality.loss):
            self.quality, self.epoch = quality, epoch
            self._state = {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def restore(self) -> None:
        if self._state:
            self.model.load_state_dict(self._state)


def _optimizer(model: PreTrainedModel, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _learning_rate_factor(config: TrainConfig, total_steps: int) -> Callable[[int], float]:
    warmup = round(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        if config.schedule == "step":
            return config.drop ** sum(step >= share * total_steps for share in config.milestones)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))

    return factor


def _share_buffers(model: PreTrainedModel, accelerator: Accelerator) -> None:
    """Gives every process the main one's running statistics: each has seen other batches since the last step."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _is_finite(model: PreTrainedModel) -> bool:
    return all(bool(value.isfinite().all()) for value in model.state_dict().values())


def _release(accelerator: Accelerator, model: PreTrainedModel, wrapped: nn.Module) -> None:
    """Takes everything off the model that training put on, and leaves it in eval mode."""
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    # Unwrapping leaves a bound `forward` on the instance; a deep copy of the model would call the original with it.
    model.__dict__.pop("forward", None)
    accelerator.free_memory()
    _share_buffers(model, accelerator)
    # Contiguous again: weights loaded from disk are, and a resumed run has to compute the same bits.
    model.to(memory_format=torch.contiguous_format)
    model.eval()
