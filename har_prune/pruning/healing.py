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
    """Trains what a run has cut, and controls on the schedule of all its healings.

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
        return self.trained(stack, schedule, f"heal-{iteration:03d}", self.config.seed + iteration)

    def _is_due(self, heal: HealConfig, iteration: int) -> bool:
        """Whether a network that is not the last one is healed."""
        if heal.when == "end":
            return self.config.prune.target.min_accuracy is not None  # any network may turn out to be the last
        return iteration % heal.when == 0

    @staticmethod
    def _schedule(heal: HealConfig, final: bool) -> TrainConfig:
        return heal.final if final and heal.final is not None else heal

    def whole_schedule(self, steps: Sequence[PruningStep], *, final: bool) -> TrainConfig:
        """The schedule that the last of some steps was healed on, drawn out over the healings of all.

        Raises:
            DataError: None of them was healed.
        """
        taken = [step.healing.steps or 0 for step in steps if step.healing]
        if self.heal is None or not taken:
            raise DataError("controls are trained as the result was healed, and it was not.")
        last = self._schedule(self.heal, final)
        return last.model_copy(update={"epochs": last.epochs * sum(taken) / taken[-1]})

    def trained(self, stack: BlockStack, schedule: TrainConfig, name: str, seed: int) -> Healing:
        """Trains a network in place.

        Raises:
            DataError: There is nothing to train with.
        """
        if self.heal is None or self.train is None:
            raise DataError(f"{name}: there is nothing to train with.")
        done = train_model(
            stack,
            self.train,
            self.validation,
            schedule,
            accelerator=self.accelerator,
            teacher=Teacher(self.original, self.heal.distill, self.teachers) if self.heal.distill else None,
            seed=seed,
            name=name,
            checkpoint=self.folder.training(name) if self.folder else None,
        )
        return Healing(done.samples_seen, done.steps, done.best_epoch)
