"""The record of a network in a run: what it costs, and how well it does."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.stack import BlockStack
from har_prune.errors import DivergedError
from har_prune.evaluation.cost import Cost, measure_cost
from har_prune.evaluation.measurement import Network, measure_all
from har_prune.evaluation.metrics import evaluate_model
from har_prune.pruning.config import RunConfig
from har_prune.pruning.history import Healing, PruningStep
from har_prune.pruning.structures import widths_of
from har_prune.runtime.digest import weights_sha256
from har_prune.runtime.processes import agreed


class Recorder:
    """Measures the networks of a run.

    Args:
        config: What the run reads.
        original: The unpruned network, with which others are compared.
        evaluate: Labelled batches by split.
        one_example: Model inputs of one example.
        protected: Indices in the original network that stay.
        accelerator: Device, precision and processes.
    """

    def __init__(
        self,
        config: RunConfig,
        original: BlockStack,
        evaluate: Mapping[str, Iterable[Mapping[str, Any]]],
        one_example: dict[str, Tensor],
        *,
        protected: set[int],
        accelerator: Accelerator,
    ):
        self.config, self.original, self.evaluate = config, original.model, evaluate
        self.one_example, self.protected, self.accelerator = one_example, protected, accelerator

    def cost(self, model: PreTrainedModel) -> Cost:
        """What a network costs, by the main process alone: several that take times would slow each other down."""
        found: Any = None
        if self.accelerator.is_main_process:
            original, latency = self.original, self.config.evaluate.latency
            budget = self.config.prune.target.latency_ms
            found = measure_cost(model, self.one_example, original=original, latency=latency, budget=budget)
        return agreed(found, self.accelerator)

    def step(
        self, stack: BlockStack, iteration: int, start: float, cost: Cost, healing: Healing | None, **chosen: Any
    ) -> PruningStep:
        """The record of a network.

        Args:
            stack: The network.
            iteration: Of the run.
            start: When its making began, on the monotonic clock.
            cost: What it costs.
            healing: How it was trained; None where it was not.
            chosen: What of a step says how it was chosen.

        Raises:
            DivergedError: Its outputs are not finite.
        """
        is_healed = iteration == 0 or healing is not None or self.config.heal is None
        chosen = {"removed": (), "scores": (), "calibration": None, **chosen}
        return PruningStep(
            iteration=iteration,
            remaining=tuple(stack.original_indices),
            cost=cost,
            healing=healing,
            units=self._units(stack),
            **self._found(stack.model, iteration, is_healed=is_healed),
            **chosen,
            seconds=time.monotonic() - start,
        )

    def _units(self, stack: BlockStack) -> dict[str, tuple[int, ...]]:
        """Units of each block, where they may go."""
        if "widths" not in self.config.prune.structures:
            return {}
        return widths_of(stack, self.config.prune.widths, self.protected).units

    def _found(self, model: PreTrainedModel, iteration: int, *, is_healed: bool) -> dict[str, Any]:
        """What a step records of how well a network does."""
        metrics = {split: evaluate_model(model, data, self.accelerator) for split, data in self.evaluate.items()}
        for split, measured in metrics.items():
            if not math.isfinite(measured.loss):
                raise DivergedError(f"iteration {iteration}: outputs on the {split} data are not finite.")
        network = Network(
            model,
            self.original,
            self.one_example,
            self.evaluate,
            self.config.evaluate,
            self.accelerator,
            is_healed,
        )
        return {"metrics": metrics, "measured": measure_all(network), "weights_sha256": weights_sha256(model)}
