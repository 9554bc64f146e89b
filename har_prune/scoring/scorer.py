"""One pass over calibration data for any number of criteria: what `score_blocks` and races are made of."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.blocks.find import stack_of
from har_prune.blocks.stack import BlockStack
from har_prune.errors import DataError, DegenerateFeaturesError, HarPruneError, NotRemovableError, ShapeError
from har_prune.runtime.batches import rows_of, shard_batch, size_of, to_device
from har_prune.scoring.ablation import Wanted
from har_prune.scoring.cka import Statistics
from har_prune.scoring.config import ExecutionPlan, ScoringConfig
from har_prune.scoring.criteria.base import CONSENSUS, Criterion, Task, make_criterion, members
from har_prune.scoring.execution_plan import choose_execution_plan
from har_prune.scoring.replica import is_placed, working_device
from har_prune.scoring.statistics import GroupedStatistics, runs_of
from har_prune.scoring.workers import Workers

Batches = Iterable[Mapping[str, Any]]


class BlockScorer:
    """Adds up what criteria need over batches, and turns the statistics into importances.

    Args:
        model: The network, or its blocks; moved to the accelerator's device, otherwise left alone.
        names: Criteria, registered names or "consensus(a, b, ...)".
        candidates: Blocks to score, each for the `removal_group` that goes with it; None = every removable one.
        config: Precision, execution plan, seed.
        accelerator: Device and processes; None = one process, the device the model is on.
        reference: A network whose representation is the reference; None = `model` itself.
        representation: Dotted module name; None = the input of the classification head.
        groups: 1, or `statistics.GROUPS` where `intervals` or `jackknife` will be asked for.

    Attributes:
        stack: The blocks of the model.
        candidates: Those still scored.
        samples: Examples this process was given, those of other processes included.
        execution_plan: How the work is cut; known once data were seen.
        reference: "current" where the model itself is the reference, else "other".

    Raises:
        UnknownFamilyError, UnknownCriterionError: Nothing is registered under a name.
        NotRemovableError: A candidate cannot be removed.
    """

    def __init__(
        self,
        model: PreTrainedModel | BlockStack,
        names: list[str],
        candidates: Iterable[int] | None,
        config: ScoringConfig,
        *,
        accelerator: Accelerator | None = None,
        reference: PreTrainedModel | None = None,
        representation: str | None = None,
        groups: int = 1,
    ):
        self.stack, self.config, self.accelerator = stack_of(model), config, accelerator
        model = self.stack.model
        self.candidates = sorted(set(self.stack.removable if candidates is None else candidates))
        if not self.candidates:
            raise NotRemovableError(
                f"none of the {len(self.stack)} blocks can be removed, so there is nothing to score."
            )
        for index in self.candidates:
            self.stack.check_removable(self.stack.removal_group(index))
        task = Task([self.stack.blocks[index] for index in self.candidates], config.seed, groups)
        self.names, self.groups = names, groups
        self.criteria = {part: make_criterion(part, task) for name in names for part in members(name)}
        self._fixed = {
            part: torch.tensor(
                [self._fixed_value(index, part, criterion) for index in self.candidates], dtype=torch.float64
            )
            for part, criterion in self.criteria.items()
            if criterion.needs == "nothing"
        }
        self._streamed: dict[str, Criterion] = {
            part: criterion for part, criterion in self.criteria.items() if criterion.needs != "nothing"
        }
        self.device = accelerator.device if accelerator and not is_placed(model) else working_device(model)
        self._model, self._reference, self._representation = model, reference, representation
        for network in (model, reference):
            if network is not None and not is_placed(network):
                network.to(self.device)
        self._statistics: dict[str, GroupedStatistics] = {}
        self._workers: Workers | None = None
        self.execution_plan: ExecutionPlan | None = None
        self.reference = "current" if reference is None else "other"
        self.samples = 0

    def all_block_evaluations(self) -> int:
        """Blocks that all processes ran together, each counted once for every example."""
        own = torch.tensor(self._workers.block_evaluations if self._workers else 0, device=self.device)
        return int(self.accelerator.reduce(own, "sum")) if self.accelerator else int(own)

    def feed(self, batches: Batches) -> None:
        """Takes batches. Every process must be given the same; each works on its rows.

        Raises:
            DataError: A criterion needs labels and there are none.
            ShapeError: Features are too wide for a criterion.
        """
        if not self._streamed:
            return
        for measurements, positions in self._measured(self._own(batches)):
            for group, rows in runs_of(positions, self.groups):
                part = measurements.rows(rows)
                for name, criterion in self._streamed.items():
                    self._statistics[name].add(group, criterion.statistics(part.of(name)))

    def _own(self, batches: Batches) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """This process's rows of each batch on the device, and their positions in the data."""
        for batch in batches:
            size = size_of(batch)
            if self._workers is None:
                self._prepare(to_device(batch, self.device))
            rows = shard_batch({**batch, "": torch.arange(self.samples, self.samples + size)}, self.accelerator)
            self.samples += size
            if rows is not None:
                positions = rows.pop("")
                yield to_device(rows, self.device), positions

    def _measured(self, own: Iterator[tuple[dict[str, Any], Tensor]]) -> Iterator:
        first = next(own, None)  # prepares the workers
        if self._workers is not None:
            rows = own if first is None else chain([first], own)
            with _as_it_was(self._model), _as_it_was(self._reference):
                yield from self._workers.measure(rows)

    def _prepare(self, batch: dict[str, Any]) -> None:
        """Chooses the execution plan, checks that replaying is right, and shows the criteria a few examples.

        Every process does this with the same rows, so that all draw and measure the same.
        """
        rows = max(getattr(criterion, "first_rows", 2) for criterion in self._streamed.values())
        example_inputs = rows_of(batch, slice(rows))
        wanted = Wanted.by(self._streamed)

        def made(execution_plan: ExecutionPlan) -> Workers:
            return Workers(
                self.stack, self.candidates, wanted, execution_plan, rows_of(example_inputs, slice(2)),
                precision=self.config.precision, representation=self._representation, reference=self._reference,
            )  # fmt: skip

        with _as_it_was(self._model), _as_it_was(self._reference):
            self.execution_plan = self.config.execution_plan or self._agreed(self._chosen(made, batch))
            self._workers = made(self.execution_plan)
            self._workers.check_replay(example_inputs)
            measurements = self._workers.measure_examples(example_inputs)
        for name, criterion in self._streamed.items():
            criterion.start(measurements.of(name))
            self._statistics[name] = GroupedStatistics(
                criterion.statistics(measurements.rows(slice(0, 2)).of(name)), self.groups
            )

    def _agreed(self, execution_plan: ExecutionPlan) -> ExecutionPlan:
        """The main process's choice: the one on record, from which a resumed run computes the same bits."""
        return broadcast_object_list([execution_plan])[0] if self.accelerator else execution_plan

    def _chosen(self, made: Callable[[ExecutionPlan], Workers], batch: dict[str, Any]) -> ExecutionPlan:
        if is_placed(self._model):
            return ExecutionPlan(micro_batch=size_of(batch))
        known: dict[tuple[int, bool], Workers] = {}

        def run(execution_plan: ExecutionPlan, some: Mapping[str, Any]) -> None:
            key = (execution_plan.workers, execution_plan.channels_last)
            if key not in known:
                known[key] = made(execution_plan)
            known[key].execution_plan = execution_plan
            known[key].whole(some)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        try:
            return choose_execution_plan(run, batch, self.device)
        finally:
            for workers in known.values():
                workers.close()

    def drop(self, blocks: set[int]) -> None:
        """Stops scoring some candidates."""
        kept = [place for place, index in enumerate(self.candidates) if index not in blocks]
        self.candidates = [self.candidates[place] for place in kept]
        if self._workers is not None:
            self._workers.drop(blocks)
        for statistics in self._statistics.values():
            statistics.keep(kept)
        self._fixed = {name: values[kept] for name, values in self._fixed.items()}

    def importances(self) -> dict[str, list[float]]:
        """Importance of each candidate, for each name the scorer was made with.

        Raises:
            DataError: There are no samples, or fewer than processes.
            DegenerateFeaturesError, ShapeError: A score is not defined; the message names block and criterion.
        """
        self._check_samples()
        parts = {name: values[:, None] for name, values in self._fixed.items()}
        for name, statistics in self._joined().items():
            parts[name] = self._for_each(name, partial(_of_all, statistics))
        found = self._combined(parts)
        return {name: values[:, 0].tolist() for name, values in found.items()}

    def intervals(self, level: float) -> dict[str, list[tuple[float, float]]]:
        """Bootstrap percentile interval of each candidate's importance, at a level such as 0.95."""
        parts = {name: values[:, None] for name, values in self._fixed.items()}
        for name, statistics in self._joined().items():
            parts[name] = self._for_each(name, partial(statistics.resampled, seed=self.config.seed))
        bounds = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        return {
            name: [tuple(torch.quantile(row, bounds).tolist()) for row in values.double().cpu()]
            for name, values in self._combined(parts).items()
        }

    def jackknife(self) -> Tensor:
        """Importance of each candidate with each group of examples left out, [C, groups with examples].

        For a scorer of one criterion that streams.
        """
        ((name, statistics),) = self._joined().items()
        return self._for_each(name, statistics.without_one_group)

    def _joined(self) -> dict[str, GroupedStatistics]:
        return {name: statistics.joined(self.accelerator) for name, statistics in self._statistics.items()}

    def _for_each(self, name: str, values: Callable[[int, Callable[[Statistics], Tensor]], Tensor]) -> Tensor:
        importance = self._streamed[name].importance
        found = []
        for place, index in enumerate(self.candidates):
            found.append(self._named(index, name, lambda _, place=place: values(place, importance)))
        return torch.stack(found) if found else torch.empty((0, 1))

    def _fixed_value(self, index: int, name: str, criterion: Any) -> float:
        """Of a criterion without data: the mean over the blocks that would go."""
        return fmean(self._named(i, name, criterion.value) for i in self.stack.removal_group(index))

    def _named(self, index: int, name: str, compute: Callable) -> Any:
        """Runs something for a block; an error, or a number that is none, names block and criterion."""
        block = self.stack.blocks[index]
        try:
            value = compute(block)
        except HarPruneError as error:
            raise type(error)(f"block {index} ({block.name!r}) has no score by {name!r}: {error}") from error
        finite = bool(value.isfinite().all()) if isinstance(value, Tensor) else math.isfinite(value)
        if not finite:
            raise DegenerateFeaturesError(
                f"block {index} ({block.name!r}) has no score by {name!r}: the criterion gave NaN or infinity."
            )
        return value

    def _combined(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values [C, K] by the names asked for: a consensus is the mean rank of a block, scaled to [0, 1]."""
        found = {}
        for name in self.names:
            if not name.startswith(CONSENSUS):
                found[name] = parts[name]
                continue
            columns = max(parts[part].shape[1] for part in members(name))
            ranks = [
                torch.as_tensor(rankdata(parts[part].double().cpu().numpy(), axis=0) - 1).expand(-1, columns)
                for part in members(name)
            ]
            found[name] = torch.stack(ranks).mean(0) / max(1, len(self.candidates) - 1)
        return found

    def _check_samples(self) -> None:
        processes = self.accelerator.num_processes if self.accelerator else 1
        if self._streamed and self.samples < processes:
            raise DataError(
                f"there are {self.samples} calibration samples for {processes} process(es): give at least one each."
            )
        if self._streamed and self.samples < 2:
            raise ShapeError(f"importance needs at least 2 calibration samples; there are {self.samples}.")

    def estimator(self, name: str) -> str:
        """How a criterion was computed, for the record."""
        return "; ".join(dict.fromkeys(getattr(self.criteria[part], "estimator", "exact") for part in members(name)))

    def samples_of(self, name: str) -> int:
        """Examples a criterion was measured on; 0 where it looks at none."""
        return self.samples if any(part in self._streamed for part in members(name)) else 0

    def close(self) -> None:
        """Ends the threads."""
        if self._workers is not None:
            self._workers.close()


def _of_all(statistics: GroupedStatistics, place: int, importance: Callable[[Statistics], Tensor]) -> Tensor:
    return importance(statistics.whole(place))


@contextmanager
def _as_it_was(model: PreTrainedModel | None) -> Iterator[None]:
    """Eval mode and no key-value cache for a model that is used itself (see `is_placed`); both come back."""
    if model is None or not is_placed(model):
        yield
        return
    was_training, use_cache = model.training, getattr(model.config, "use_cache", None)
    model.eval()
    if use_cache:
        model.config.use_cache = False
    try:
        yield
    finally:
        model.train(was_training)
        if use_cache:
            model.config.use_cache = use_cache
