"""What goes next: the least important blocks, the least important units, or whichever of the two costs less."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.evaluation.cost import timed
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.history import Choice
from har_prune.pruning.ranking import Ranking
from har_prune.pruning.structures import WITHIN, BlockRemoval, Removal, UnitQueue, UnitRemoval, fewest_bites
from har_prune.runtime.processes import agreed
from har_prune.scoring.similarity import similarities
from har_prune.scoring.units import score_units
from har_prune.widths.find import find_widths

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Chooser:
    """How the next removal of a run is chosen.

    Args:
        settings: Structures, criteria, target, reference.
        calibration: Batches the criteria see.
        original: The unpruned network.
        example_inputs: Model inputs of one example.
        macs: Multiply-accumulates of the unpruned network.
        accelerator: Device and processes.
    """

    settings: PruneSettings
    calibration: Batches
    original: PreTrainedModel
    example_inputs: dict[str, Tensor]
    macs: int
    accelerator: Accelerator

    def narrows(self, stack: BlockStack) -> bool:
        """Whether units may go from a network."""
        return "widths" in self.settings.structures and any(
            width.why_fixed is None
            and any(self.settings.widths.min_units <= size < width.units for size in width.sizes)
            for width in find_widths(stack, self.settings.widths.kinds).widths
        )

    def options(
        self, stack: BlockStack, ranking: Ranking | None, seed: int
    ) -> Iterator[tuple[Removal, Choice | None]]:
        """Removals, from the one to take; the next where a config cannot express it.

        Args:
            stack: Blocks of the current network.
            ranking: Blocks that may go; None where none may.
            seed: Of this iteration.
        """
        queue = self._queue(stack, seed) if self.narrows(stack) else None
        groups = [stack.removal_group(index) for index in ranking.order] if ranking else []
        for group in groups:
            block = BlockRemoval(stack, group)
            units = queue and self._alike(queue, block)
            if not units:
                yield block, None
                continue
            choice = self._compared(stack, block, units, seed)
            ordered: list[Removal] = [units, block] if choice.taken == "widths" else [block, units]
            yield from ((removal, choice) for removal in ordered)
        if not groups and queue and (alone := self._alone(queue)):
            yield alone, None

    def _queue(self, stack: BlockStack, seed: int) -> UnitQueue:
        settings = self.settings.widths
        widths = find_widths(stack, settings.kinds)
        importance = score_units(widths, self.calibration, settings.criterion, accelerator=self.accelerator, seed=seed)
        return UnitQueue(widths, importance, self.example_inputs, settings)

    def _alike(self, queue: UnitQueue, block: BlockRemoval) -> UnitRemoval | None:
        """Units that save as much as a block does: in time where a budget of time is all there is, else in MACs."""
        if set(self.settings.target.budgets) == {"latency_ms"}:
            shallower = block.built(copy=False).model
            return fewest_bites(queue, partial(self._is_as_fast, shallower))
        now = count_macs(block.stack.model, self.example_inputs)
        return queue.saving(now - block.macs_left(self.example_inputs), WITHIN)

    def _is_as_fast(self, other: PreTrainedModel, removal: UnitRemoval) -> bool:
        """Whether the narrower network takes no longer than another one, the two in turns."""
        model = removal.built(copy=False).model
        found: Any = None
        if self.accelerator.is_main_process:  # several that take times at once would slow each other down
            budget = self.settings.target.latency_ms
            latency = timed(model, self.example_inputs, other, budget and budget.model_copy(update={"at_most": 1e-9}))
            found = latency.median_ms <= (latency.original_ms or 0)
        return bool(agreed(found, self.accelerator))

    def _alone(self, queue: UnitQueue) -> UnitRemoval | None:
        """Units for a step in which no block can go: a share of the unpruned MACs, or what is left to remove."""
        now, target = count_macs(queue.widths.stack.model, self.example_inputs), self.settings.target
        wanted = self.settings.widths.step * self.macs
        if set(target.budgets) == {"macs_reduction"} and target.macs_reduction is not None:
            wanted = min(wanted, now - (1 - target.macs_reduction) * self.macs)
        return queue.saving(wanted)

    def _compared(self, stack: BlockStack, block: BlockRemoval, units: UnitRemoval, seed: int) -> Choice:
        changes: dict[str, Callable] = {"blocks": block.bypassed, "widths": units.bypassed}
        found = similarities(
            stack.model,
            self.calibration,
            changes,
            reference=self.original if self.settings.reference == "original" else None,
            representation=self.settings.representation,
            accelerator=self.accelerator,
            seed=seed,
        )
        taken = "widths" if found["widths"] > found["blocks"] else "blocks"
        macs = {
            "blocks": block.macs_left(self.example_inputs),
            "widths": units.macs_left(self.example_inputs),
        }
        return Choice(taken, found, macs)
