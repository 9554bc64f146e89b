"""score_blocks: the importance of every removable block on a stream of batches."""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import chain
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.blocks.find import stack_of
from har_prune.blocks.stack import BlockStack
from har_prune.errors import DataError, NotRemovableError, ShapeError, UnknownCriterionError
from har_prune.runtime.batches import checked, size_of
from har_prune.runtime.processes import accelerator_for, agreed, check_device
from har_prune.runtime.progress import Progress, count_of
from har_prune.scoring.aggregate import Aggregate
from har_prune.scoring.config import RaceConfig, ScoringConfig
from har_prune.scoring.criteria.base import refuse_race
from har_prune.scoring.measure import Measurer
from har_prune.scoring.race import run_race
from har_prune.scoring.scores import BlockScore, CriterionCost, Scores

Batches = Iterable[Mapping[str, Any]]


def score_blocks(
    model: PreTrainedModel | BlockStack,
    batches: Batches,
    criterion: str | list[str] = "cka",
    *,
    accelerator: Accelerator | None = None,
    candidates: Iterable[int] | None = None,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
    config: ScoringConfig | None = None,
) -> Scores:
    """Scores blocks by what the network loses without each of them.

    A pure function of model, batches and arguments: the model comes back as it was.

    Args:
        model: The network, or what `find_blocks` returned for it. One that accelerate placed (`device_map`, offload)
            is scored where it is.
        batches: Dicts of model inputs; for a race in random order: the first have to be a fair sample. Memory does not
            grow with their number. With several processes every process iterates the same batches and works on its
            rows, so there are no padding rows.
        criterion: A registered name, or "consensus(a, b, ...)" for the mean rank by several. Several names share every
            forward.
        accelerator: Decides the device and joins processes; None = one process, the device the model is on.
        candidates: Block indices to score; None = every removable block.
        reference: Another network to compare with, e.g. the unpruned network; None = `model` itself.
        representation: Dotted module name; None = the input of the classification head.
        config: Precision, interval, race, execution plan, seed; None = the defaults.

    Returns:
        The scores by index, of several criteria one after the other, and what they took. All processes are given what
        the main process found.

    Raises:
        UnknownFamilyError: Nobody knows the blocks of the model.
        UnknownCriterionError: Nothing is registered under the name, or it cannot race; or there is no name.
        NotRemovableError: A candidate cannot be removed.
        DataError: There are too few samples, or no labels where the criterion needs them.
        ShapeError: Too few examples for the criterion, or no such representation.
        DegenerateFeaturesError: A score is undefined; the message names the block.
    """
    config, batches, stack = config or ScoringConfig(), checked(batches, "calibration"), stack_of(model)
    if accelerator is not None:
        accelerator_for(accelerator)
    else:
        check_device(stack.model.device)
    names = [criterion] if isinstance(criterion, str) else list(dict.fromkeys(criterion))
    if not names:
        raise UnknownCriterionError("there is no criterion to score by: name at least one, e.g. 'cka'.")
    if config.race is not None:
        refuse_race(names)
    chosen = sorted(set(stack.removable if candidates is None else candidates))
    if not chosen:
        raise NotRemovableError(f"none of the {len(stack)} blocks can be removed, so there is nothing to score.")
    for index in chosen:
        stack.check_removable(stack.removal_group(index))
    aggregate = Aggregate(names, stack, chosen, config, "current" if reference is None else "other")
    if not aggregate.streamed:
        return Scores(aggregate.scores({}, 0), 0, None, 0, _costs(aggregate, chosen))
    with closing(Progress("score", count_of(batches), accelerator)) as progress:
        stream = iter(progress.counting(batches))
        first: Any = next(stream, None)
        if first is None:
            _check_samples(0, accelerator)
        measurer = Measurer(
            stack, chosen, aggregate.streamed, first, config,
            accelerator=accelerator, reference=reference, representation=representation,
        )  # fmt: skip
        with closing(measurer):
            rows = max(getattr(criterion, "first_rows", 2) for criterion in aggregate.streamed.values())
            begun = [first]
            while sum(map(size_of, begun)) < rows and (batch := next(stream, None)) is not None:
                begun.append(batch)
            aggregate.start(measurer.first(begun, rows))
            stream, race = chain(begun, stream), None
            if config.race is None:
                for measurements in measurer.measure(stream):
                    aggregate.add(measurements)
                joined = aggregate.joined(accelerator)
                _check_samples(measurer.samples, accelerator)
                found = agreed(aggregate.scores(joined, measurer.samples), accelerator)
            else:
                found, race = run_race(measurer, aggregate, stream, config.race, progress)
                _check_samples(measurer.samples, accelerator)
            return Scores(
                found, measurer.samples, measurer.execution_plan, measurer.block_evaluations(),
                _costs(aggregate, chosen), race,
            )  # fmt: skip


def _check_samples(samples: int, accelerator: Accelerator | None) -> None:
    processes = accelerator.num_processes if accelerator else 1
    if samples < processes:
        raise DataError(f"there are {samples} calibration samples for {processes} process(es): give one for each.")
    if samples < 2:
        raise ShapeError(f"importance needs at least 2 calibration samples; there are {samples}.")


def _costs(aggregate: Aggregate, candidates: list[int]) -> dict[str, CriterionCost]:
    """What each criterion takes by itself, on a network whose candidates share one forward."""
    stack, found = aggregate.stack, {}
    depth = len(stack)
    behind = sum(depth - stack.removal_group(index)[-1] - 1 for index in candidates)
    forward = {"nothing": 0, "features": depth + behind, "losses": depth + behind}
    for name, criterion in aggregate.criteria.items():
        backward = depth if criterion.needs == "gradients" else 0
        found[name] = CriterionCost(forward.get(criterion.needs, depth), backward, aggregate.bytes.get(name, 0))
    return found


def score_criteria(
    model: PreTrainedModel | BlockStack, batches: Batches, criteria: list[str], **options: Any
) -> dict[str, tuple[BlockScore, ...]]:
    """`score_blocks` with several criteria, as 0.1 had it."""
    warnings.warn("score_criteria is now score_blocks(model, batches, [...])", DeprecationWarning, stacklevel=2)
    return dict(score_blocks(model, batches, criteria, **options).by_criterion)


def race_blocks(model: PreTrainedModel | BlockStack, batches: Batches, race: RaceConfig, **options: Any) -> Scores:
    """`score_blocks` with `ScoringConfig(race=...)`; its `winner` is now `least()[0]`."""
    warnings.warn("race_blocks is now score_blocks(config=ScoringConfig(race=...))", DeprecationWarning, stacklevel=2)
    config = options.pop("config", None) or ScoringConfig()
    return score_blocks(model, batches, config=config.model_copy(update={"race": race}), **options)
