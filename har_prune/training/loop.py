"""The one training loop: it trains originals and heals pruned networks alike."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.errors import DataError, DivergedError
from har_prune.evaluation.metrics import EvalMetrics, evaluate_model
from har_prune.runtime.batches import LABELS, as_computed, checked, fingerprint_of, generators_of, inputs_of, to_device
from har_prune.runtime.devices import refuse_placed
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.processes import accelerator_for, trains_alike
from har_prune.runtime.progress import Progress
from har_prune.training.checkpoint import TrainingCheckpoint
from har_prune.training.config import TrainConfig
from har_prune.training.distill import Loss, Teacher
from har_prune.training.layer_drop import LayerDrop
from har_prune.training.parameters import OwnPrecision, TrainedParameters
from har_prune.training.step import Stepper, make_optimizer
from har_prune.training.weights import KeptWeights, estimate_statistics


@dataclass(frozen=True)
class TrainingResult:
    """What one training run did.

    Args:
        best_epoch: Epoch whose weights were kept; the last where none was chosen.
        steps: Optimiser steps.
        samples_seen: Training examples over all processes, repeats counted.
        validation: Quality of the kept weights on the validation data; None without.
    """

    best_epoch: float
    steps: int
    samples_seen: int
    validation: EvalMetrics | None


def train_model(
    model: PreTrainedModel | BlockStack,
    train: DataLoader,
    validation: Iterable[Mapping[str, Any]] | None,
    config: TrainConfig,
    *,
    accelerator: Accelerator | None = None,
    teacher: Teacher | None = None,
    seed: int = 0,
    name: str = "train",
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Trains a classifier in place; it comes back in eval mode with the weights that `config.keep` names.

    The same arguments give the same weights, bit by bit, on the same CPU with as many processes and threads: dropout,
    augmentation and the order of examples follow from the seed and the number of the step, whatever ran before. So
    does a training that was interrupted and goes on from its `checkpoint` (a data set that draws random numbers of its
    own may have drawn others). On a GPU the same numbers are drawn, and sums are not always taken in the same order.

    Several processes share each batch, whose size is that of all together, and average their gradients. Batch
    normalisation takes the statistics of each process's share and is not synchronised.

    Args:
        model: A classifier with `logits` [B, num_labels] in its output, or a causal language model; or its blocks.
        train: Batches are dicts of model inputs with `labels` [B] (of a language model its tokens, [B, T]). A loader
            may have a function `augment(batch, epoch)`, which is called with batches on the device they train on.
        validation: Batches that choose among epochs, or measure what was kept; None does neither.
        config: The schedule.
        accelerator: Device, precision, processes and trackers; None = one of our own.
        teacher: The network to distil from, and how; without it the labels are all there is.
        seed: Seed of everything random.
        name: Prefix of the metrics sent to trackers, and the title of the progress bar.
        checkpoint: File to save to every `config.checkpoint_minutes` and to go on from; remove it when the result is
            safe. None = nothing is saved.

    Raises:
        DataError: There is not one batch for each process, or `accumulation` does not divide a batch.
        DivergedError: The loss became NaN or infinite.
        OutputFolderError: The checkpoint is damaged, or of another training.
    """
    accelerator = trains_alike(accelerator_for(accelerator))
    training = _Training(model, checked(train, "training"), config, accelerator, teacher, seed, name)
    try:
        training.begin()
        if checkpoint is not None:
            training.go_on_from(checkpoint)
        training.run(validation)
        return training.finish(validation)
    finally:
        training.close()


class _Training:
    """One call of `train_model`. Until `begin` nothing is done to the network, and `close` undoes what was."""

    def __init__(
        self,
        model: PreTrainedModel | BlockStack,
        train: DataLoader,
        config: TrainConfig,
        accelerator: Accelerator,
        teacher: Teacher | None,
        seed: int,
        name: str,
    ):
        self.config, self.accelerator, self.teacher, self.seed, self.name = config, accelerator, teacher, seed, name
        self.model = model.model if isinstance(model, BlockStack) else model
        self.train, self.augment = train, getattr(train, "augment", None)
        self.loss_of = Loss(model, config.label_smoothing, teacher, accelerator)
        self.drop = LayerDrop(model, config.layer_drop, accelerator)
        self.order = _Order(train, seed)
        self.saved = TrainingCheckpoint(None, {}, config.checkpoint_minutes)
        self.step = self.samples = 0
        self.own: OwnPrecision | None = None
        self.trained: TrainedParameters | None = None
        self.wrapped: nn.Module | None = None

    def begin(self) -> None:
        """Puts the network, the optimizer and the loader where they train."""
        refuse_placed(self.model)
        self.own = OwnPrecision(self.model)
        self.model.to(self.accelerator.device).train()
        if _is_convolutional(self.model):  # measured on CPU: a ResNet-56 step takes 0.75 of the time
            self.model.to(memory_format=torch.channels_last)
        set_seed(self.seed)  # of what low-rank updates begin with
        self.trained = TrainedParameters(self.model, self.config.parameters)
        optimizer = make_optimizer(self.model, self.config)
        self.wrapped, self.optimizer, self.loader = self.accelerator.prepare(self.model, optimizer, self.train)
        if self.accelerator.scaler is not None:  # one for all trainings: what ran before must not matter
            state = self.accelerator.scaler.state_dict()
            self.accelerator.scaler.load_state_dict({**state, "scale": 65536.0, "_growth_tracker": 0})
        self.steps_per_epoch = _length_of(self.loader, self.name)  # of this process
        if not self.steps_per_epoch:
            raise DataError(
                f"{self.name}: there is not one training batch a process ({self.accelerator.num_processes} processes)."
            )
        _warn_of_repeats(self.train, self.accelerator, self.name)
        self.total_steps = max(1, round(self.config.epochs * self.steps_per_epoch))
        self.stepper = Stepper(
            self.wrapped, self.optimizer, self.config, self.total_steps, self.loss_of, self.accelerator
        )
        self.kept = KeptWeights(self.model, self.config, self.total_steps)

    def go_on_from(self, checkpoint: Path) -> None:
        """Brings back what a checkpoint holds, where it is there, and saves to it from now on."""
        teachers = self.teacher.models if self.teacher else []
        identity = {
            "training": self.name,
            "settings": self.config.model_dump(mode="json", exclude={"checkpoint_minutes"}),
            "seed": self.seed,
            "processes": self.accelerator.num_processes,
            "precision": self.accelerator.mixed_precision,
            "steps": self.total_steps,
            "network": weights_sha256(self.model),
            "teachers": [weights_sha256(teacher) for teacher in teachers],
            "distill": self.teacher and self.teacher.config.model_dump(mode="json"),
            "data": fingerprint_of(self.train),
        }
        self.saved = TrainingCheckpoint(checkpoint, identity, self.config.checkpoint_minutes)
        state = self.saved.load()
        if state is None:
            return
        self.step, self.samples = state["step"], state["samples"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.kept.load_state_dict(state["kept"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _offer(self) -> None:
        if not self.accelerator.is_main_process or not self.saved.is_due():
            return
        scaler = self.accelerator.scaler
        self.saved.save({
            "step": self.step, "samples": self.samples, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "kept": self.kept.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        })  # fmt: skip

    def run(self, validation: Iterable[Mapping[str, Any]] | None) -> None:
        """The steps that are left."""
        progress = Progress(self.name, self.total_steps, self.accelerator)
        progress.advance(self.step)
        while self.step < self.total_steps:
            before = self.step
            for batch in self._batches():
                with self.drop(batch):
                    loss = self.stepper(batch, self.step)
                self.step += 1
                self.samples += len(batch[LABELS]) * self.accelerator.num_processes
                self.kept.step(self.step)
                progress.advance()
                if self.step == self.total_steps or self.step % self.steps_per_epoch == 0:
                    break
                self._offer()
            if self.step == before:
                progress.close()
                raise DataError(f"{self.name}: the training loader has fewer batches than its length says.")
            if not math.isfinite(loss.item()):
                progress.close()
                raise DivergedError(
                    f"{self.name}: the loss became {loss.item()} in step {self.step}: lower learning_rate."
                )
            metrics = {f"{self.name}/loss": loss.item(), f"{self.name}/learning_rate": self.stepper.learning_rate}
            epoch = self.step / self.steps_per_epoch
            due = self.step == self.total_steps or round(epoch) % self.config.validate_every == 0
            if validation is not None and self.config.keep == "best" and due:
                quality = _validate(self.model, validation, self.accelerator)
                self.kept.offer(epoch, quality)
                metrics[f"{self.name}/validation_accuracy"] = quality.accuracy
                metrics[f"{self.name}/validation_loss"] = quality.loss
                progress.note(f"validation accuracy {100 * quality.accuracy:.1f} %")
            self.accelerator.log(metrics, step=self.step)
            self._offer()
        progress.close()

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        """Those from this step to the end of its epoch, ready to train on, with random numbers of the step."""
        epoch, done = divmod(self.step, self.steps_per_epoch)
        self.order.begin(epoch)
        if hasattr(self.loader, "iteration"):  # a sampler's epoch, which accelerate counts behind the last batch alone
            self.loader.iteration = epoch
        left = skip_first_batches(self.loader, done) if done else self.loader
        for number, batch in enumerate(left, start=self.step):
            _seed(self.seed, number, self.accelerator)
            yield batch if self.augment is None else self.augment(batch, epoch)

    def finish(self, validation: Iterable[Mapping[str, Any]] | None) -> TrainingResult:
        """Gives the network the weights that are kept, and back what it was given with."""
        if self.kept.restore():
            # Autocast is the network's alone: sensor windows are turned in float32, here as in training.
            model = self.model
            forward = self.accelerator.autocast()(lambda batch: model(**as_computed(inputs_of(batch), model)))
            estimate_statistics(model, self._statistics_batches(), forward)
        self._release()
        quality = self.kept.quality
        if validation is not None and self.config.keep != "best":
            quality = evaluate_model(self.model, validation, self.accelerator)
        if self.own is not None:
            self.own.restore()
        judged = validation is None or (quality is not None and math.isfinite(quality.loss))
        if not judged or not _is_finite(self.model):
            raise DivergedError(f"{self.name}: weights or outputs became NaN or infinite: lower learning_rate.")
        epoch = self.kept.epoch or self.step / self.steps_per_epoch
        return TrainingResult(epoch, self.step, self.samples, quality)

    def _statistics_batches(self) -> Iterator[Mapping[str, Any]]:
        """Batches as in training, in an order of their own; in every process the same."""
        epochs = math.ceil(self.config.epochs)
        self.order.begin(epochs)
        for number, batch in enumerate(self.train):
            set_seed(seed_of(self.seed, self.total_steps + number))
            batch = to_device(batch, self.accelerator.device)
            yield batch if self.augment is None else self.augment(batch, epochs)

    def _release(self) -> None:
        """Takes off the model what training put on, and leaves it in eval mode."""
        if self.wrapped is not None:
            _release(self.accelerator, self.model, self.wrapped)
            self.wrapped = None
        if self.trained is not None:
            self.trained.restore()

    def close(self) -> None:
        """Leaves the network without hooks, as it computes elsewhere, also after an error."""
        self.loss_of.close()
        self.order.close()
        self._release()
        if self.own is not None:
            self.own.restore()


def _is_convolutional(model: PreTrainedModel) -> bool:
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def seed_of(seed: int, number: int) -> int:
    """A seed for each number, without a pattern between neighbours; in [0, 2^31).

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(0, 2)
    True
    """
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


def _warn_of_repeats(loader: Any, accelerator: Accelerator, name: str) -> None:
    """Says that several processes train otherwise than one where a batch is not whole: Accelerate fills it up."""
    size, examples = getattr(loader, "batch_size", None) or 1, getattr(loader, "dataset", ())
    is_filled = hasattr(examples, "__len__") and len(examples) % size and not loader.drop_last
    if accelerator.num_processes > 1 and is_filled:
        warnings.warn(
            f"{name}: the last of the training batches is smaller than {size}, and {accelerator.num_processes} "
            "processes fill it up with examples that they have seen: drop_last=True makes them train as one would.",
            stacklevel=2,
        )


def _length_of(loader: Any, name: str) -> int:
    try:
        return len(loader)
    except TypeError as error:
        raise DataError(
            f"{name}: the training loader has no length, and a schedule needs one: give its data set `__len__`."
        ) from error


class _Order:
    """The order of examples: it follows from the seed and the epoch, so that a training can go on in the middle."""

    def __init__(self, loader: DataLoader, seed: int):
        self.seed, self.generator = seed, torch.Generator()
        self._former = generators_of(loader)
        for owner, _ in self._former:
            owner.generator = self.generator

    def begin(self, epoch: int) -> None:
        """Before the first batch of an epoch is asked for."""
        self.generator.manual_seed(seed_of(self.seed, epoch))
        set_seed(seed_of(self.seed, epoch))  # for samplers that have no generator

    def close(self) -> None:
        """Gives the loader its own generators back: it may serve something else, a calibration say."""
        for owner, generator in self._former:
            owner.generator = generator


def _seed(seed: int, step: int, accelerator: Accelerator) -> None:
    """Dropout and augmentation of a step, in each process others."""
    set_seed(seed_of(seed, step) + accelerator.process_index)


def _validate(
    model: PreTrainedModel, validation: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> EvalMetrics:
    """Metrics in the middle of training, at its precision."""
    _share_buffers(model, accelerator)
    with accelerator.autocast():
        return evaluate_model(model, validation, accelerator)


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
