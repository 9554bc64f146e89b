"""When the networks of a run are trained, and on which schedule."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.errors import DataError
from har_prune.pruning.config import RunConfig
from har_prune.pruning.history import Healing, PruningStep
from har_prune.pruning.store import RunFolder
from har_prune.training.config import HealConfig, TrainConfig
from har_prune.training.distill import Teacher
from har_prune.training.loop import train_model


class Healer:
    """Trains what a run has cut, and its controls.

    Args:
        config: What the run reads.
        original: The unpruned network, which teaches where healing distils.
        train: Labelled batches; None where nothing is healed.
        validation: Batches that choose among epochs.
        accelerator: Device, precision and processes.
        teachers: Networks whose logits are averaged with the original's.
        folder: Where a training that is interrupted goes on from; None = nothing is kept.
    """

    def __init__(
        self,
        config: RunConfig,
        original: BlockStack,
        train: DataLoader | None,
        validation: Iterable[Mapping[str, Any]],
        *,
        accelerator: Accelerator,
        teachers: Sequence[PreTrainedModel],
        folder: RunFolder | None,
    ):
        self.config, self.heal = config, config.heal
        self.original, self.train, self.validation, self.teachers = original, train, validation, teachers
        self.accelerator, self.folder = accelerator, folder

    def healed(self, stack: BlockStack, iteration: int, *, final: bool) -> Healing | None:
        """Trains the network of an iteration when it is due; None where it is not."""
        if self.heal is None or not (final or self._is_due(self.heal, iteration)):
            return None
        schedule = self._schedule(self.heal, final)
        return self._trained(stack, schedule, f"heal-{iteration:03d}", self.config.seed + iteration, self._teacher())

    def _is_due(self, heal: HealConfig, iteration: int) -> bool:
        """Whether a network that is not the last one is healed."""
        if heal.when == "end":
            return self.config.prune.target.min_accuracy is not None  # any network may turn out to be the last
        return iteration % heal.when == 0

    @staticmethod
    def _schedule(heal: HealConfig, final: bool) -> TrainConfig:
        return heal.final if final and heal.final is not None else heal

    def train_control(
        self, name: str, stack: BlockStack, steps: Sequence[PruningStep], seed: int, *, final: bool
    ) -> Healing:
        """Trains a control in place, as the last of some steps was healed; `scratch_full` as the original was trained.

        Raises:
            DataError: None of the steps was healed, or there is nothing to train with.
        """
        schedule, teacher = self._whole_schedule(steps, final=final), self._teacher()
        if name == "scratch_full" and (train := self.config.train) is not None:
            schedule, teacher = train.model_copy(update={"epochs": train.epochs + schedule.epochs}), None
        if name in ("scratch", "scratch_full"):  # random weights that are frozen stay random
            schedule = schedule.model_copy(update={"parameters": "all"})
        return self._trained(stack, schedule, f"control-{name}", seed, teacher)

    def _whole_schedule(self, steps: Sequence[PruningStep], *, final: bool) -> TrainConfig:
        """The schedule that the last of some steps was healed on, drawn out over the healings of all."""
        taken = [step.healing.steps or 0 for step in steps if step.healing]
        if self.heal is None or self.train is None or not taken:
            raise DataError("controls are trained as the result was healed, and it was not.")
        # Of steps, and not of epochs: each healing has been rounded to whole steps.
        return self._schedule(self.heal, final).model_copy(update={"epochs": sum(taken) / len(self.train)})

    def _teacher(self) -> Teacher | None:
        distill = self.heal and self.heal.distill
        return Teacher(self.original, distill, self.teachers) if distill else None

    def _trained(
        self, stack: BlockStack, schedule: TrainConfig, name: str, seed: int, teacher: Teacher | None
    ) -> Healing:
        if self.heal is None or self.train is None:
            raise DataError(f"{name}: there is nothing to train with.")
        done = train_model(
            stack,
            self.train,
            self.validation,
            schedule,
            accelerator=self.accelerator,
            teacher=teacher,
            seed=seed,
            name=name,
            checkpoint=self.folder.training(name) if self.folder else None,
        )
        return Healing(done.samples_seen, done.steps, done.best_epoch)
