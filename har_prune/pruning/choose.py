"""What goes next: the least important blocks, the least important units, or whichever of the two costs less."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.errors import NotRemovableError
from har_prune.evaluation.cost import Cost, threads_for, timed
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.history import Choice
from har_prune.pruning.ranking import Ranking
from har_prune.pruning.structures import (
    WITHIN,
    BlockRemoval,
    Removal,
    UnitQueue,
    UnitRemoval,
    fewest_bites,
    widths_of,
)
from har_prune.runtime.processes import agreed
from har_prune.scoring.similarity import similarities
from har_prune.scoring.units import score_units
from har_prune.widths.stack import WidthStack

Batches = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Chooser:
    """How the next removal of a run is chosen.

    Args:
        settings: Structures, criteria, target, reference.
        calibration: Batches the criteria see.
        original: The unpruned network.
        example_inputs: Model inputs of one example.
        before: What the unpruned network costs.
        protected: Blocks that stay as they are, by index in the original network.
        accelerator: Device and processes.
    """

    settings: PruneSettings
    calibration: Batches
    original: PreTrainedModel
    example_inputs: dict[str, Tensor]
    before: Cost
    protected: set[int]
    accelerator: Accelerator

    def narrows(self, stack: BlockStack, cost: Cost) -> bool:
        """Whether units may go from a network, and their going brings it nearer to its target."""
        target = self.settings.target
        if "widths" not in self.settings.structures or set(target.unmet(self.before, cost, len(stack))) == {"blocks"}:
            return False
        widths = self._widths(stack)
        fewest = self.settings.widths.min_units
        return any(
            fewest <= size < widths.widths[i].units for i in widths.narrowable for size in widths.widths[i].sizes
        )

    def options(
        self, stack: BlockStack, cost: Cost, ranking: Ranking | None, seed: int
    ) -> Iterator[tuple[Removal, Choice | None]]:
        """Removals, from the one to take; the next where a config cannot express it.

        Args:
            stack: Blocks of the current network.
            cost: What it costs.
            ranking: Blocks that may go; None where none may.
            seed: Of this iteration.
        """
        queue = self._queue(stack, seed) if self.narrows(stack, cost) else None
        for group in [stack.removal_group(index) for index in ranking.order] if ranking else []:
            block = BlockRemoval(stack, group)
            units = queue and self._alike(queue, block)
            if not units:
                yield block, None
                continue
            choice = self._compared(stack, block, units, seed)
            order = ("widths", "blocks") if choice.taken == "widths" else ("blocks", "widths")
            removals: dict[str, Removal] = {"blocks": block, "widths": units}
            yield from ((removals[name], replace(choice, taken=name)) for name in order)
        if queue and (alone := self._alone(queue)):
            yield alone, None

    def _widths(self, stack: BlockStack) -> WidthStack:
        return widths_of(stack, self.settings.widths, self.protected)

    def _queue(self, stack: BlockStack, seed: int) -> UnitQueue:
        settings, widths = self.settings.widths, self._widths(stack)
        importance = score_units(widths, self.calibration, settings.criterion, accelerator=self.accelerator, seed=seed)
        return UnitQueue(widths, importance, self.example_inputs, settings)

    def _alike(self, queue: UnitQueue, block: BlockRemoval) -> UnitRemoval | None:
        """Units that save as much as a block does: in time where a budget of time is all there is, else in MACs."""
        if self.settings.is_timed:
            try:
                shallower = block.built(copy=False).model
            except NotRemovableError:
                return None
            return fewest_bites(queue, partial(self._is_as_fast, shallower))
        now = count_macs(block.stack.model, self.example_inputs)
        return queue.saving(now - block.macs_left(self.example_inputs), WITHIN)

    def _is_as_fast(self, other: PreTrainedModel, removal: UnitRemoval) -> bool:
        """Whether the narrower network takes no longer than another one, the two in turns."""
        model, budget = removal.built(copy=False).model, self.settings.target.latency_ms
        found: Any = None
        if self.accelerator.is_main_process and budget is not None:  # several at once would slow each other down
            # A budget no network holds is decided at the first look.
            alike = {"threads": budget.threads or threads_for(self.original, self.example_inputs), "at_most": 1e-9}
            latency = timed(model, self.example_inputs, other, budget.model_copy(update=alike))
            found = latency.median_ms <= (latency.original_ms or 0)
        return bool(agreed(found, self.accelerator))

    def _alone(self, queue: UnitQueue) -> UnitRemoval | None:
        """Units for a step in which no block can go: a share of the unpruned MACs, or what is left to remove."""
        now, target = count_macs(queue.widths.stack.model, self.example_inputs), self.settings.target
        wanted = self.settings.widths.step * self.before.macs
        if set(target.budgets) == {"macs_reduction"}:
            wanted = min(wanted, now - target.most_macs(self.before.macs))
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
