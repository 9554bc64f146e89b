"""Planning: which blocks may go, which one goes next, what can be reached at all. Plain values, no training."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from har_prune.blocks.depth import smaller_config
from har_prune.blocks.rebuild import class_without_blocks, without_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.errors import NotRemovableError, UnreachableTargetError, did_you_mean
from har_prune.evaluation.cost import measure_cost, timed
from har_prune.pruning.config import PruneSettings, RunConfig
from har_prune.pruning.history import PruningStep
from har_prune.pruning.structures import UnitQueue, widths_of
from har_prune.pruning.target import Target
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.runtime.processes import agreed
from har_prune.scoring.criteria.base import members, refuse_race
from har_prune.scoring.criteria.units import make_unit_criterion
from har_prune.widths.find import find_widths
from har_prune.widths.rebuild import without_units


def protected_blocks(stack: BlockStack, protected: Iterable[int | str]) -> set[int]:
    """Protected blocks as indices in the original network, which is another one when the model was pruned before.

    Args:
        stack: Blocks of the network pruning starts from.
        protected: Indices or names of its blocks.

    Raises:
        NotRemovableError: An index or a name is not a block of this model.
    """
    originals = stack.original_indices
    indices = set()
    for item in protected:
        if isinstance(item, str):
            if item not in stack.names:
                raise NotRemovableError(
                    f"protected: no block is called {item!r}; blocks are {stack.names[0]!r} ... {stack.names[-1]!r}."
                    f"{did_you_mean(item, stack.names)}"
                )
            indices.add(originals[stack.names.index(item)])
        elif 0 <= item < len(stack):
            indices.add(originals[item])
        else:
            raise NotRemovableError(f"protected: block {item} does not exist: this model has 0-{len(stack) - 1}.")
    return indices


def candidates(stack: BlockStack, settings: PruneSettings, protected: set[int]) -> list[int]:
    """Blocks that may go next, each with its `BlockStack.removal_group`.

    Args:
        stack: Blocks of the current network.
        settings: Guards and floor.
        protected: Indices in the original network that stay.
    """
    stay = _staying(stack, settings, protected)
    allowed = []
    for stage in stack.stages:
        for index in stage:
            group = stack.removal_group(index)
            if stay.isdisjoint(group) and len(stage) - len(group) >= settings.floor:
                allowed.append(index)
    return allowed


def most_removals(stack: BlockStack, settings: PruneSettings, protected: set[int]) -> list[int]:
    """As many blocks as may all go; which of them do is up to the scores."""
    stay = _staying(stack, settings, protected)
    gone: list[int] = []
    for stage in stack.stages:
        kept = list(stage)
        while True:
            # The last block goes alone also where the others go in groups.
            groups = [kept[place : place + stack.period] for place in reversed(range(len(kept)))]
            group = next((u for u in groups if stay.isdisjoint(u) and len(kept) - len(u) >= settings.floor), None)
            if group is None:
                break
            kept = [index for index in kept if index not in group]
            gone += group
    return gone


def _staying(stack: BlockStack, settings: PruneSettings, protected: set[int]) -> set[int]:
    fixed = {block.index for block in stack.blocks if block.why_fixed is not None}
    first = {stage[0] for stage in stack.stages} if settings.guards == "paper" else set()
    return fixed | first | {block.index for block in stack.blocks if block.original_index in protected}


def check_settings(stack: BlockStack, config: RunConfig, inputs: dict[str, Tensor]) -> None:
    """Refuses settings that cannot work before any work is done for them.

    Args:
        stack: Blocks of the network pruning starts from.
        config: Criterion, representation, target and guards, and whether there are controls.
        inputs: Model inputs of one example, to count MACs on.

    Raises:
        UnknownCriterionError, ShapeError: No such criterion or representation.
        NotRemovableError, UndeclaredLayerListError: No config could state a smaller depth, or a smaller width.
        UnreachableTargetError: Nothing may be removed, or removing all that may go is not enough; says what is.
    """
    settings = config.prune
    members(settings.criterion)
    if settings.calibration.race is not None:
        refuse_race([settings.criterion])
    FeatureHook(stack.model, settings.representation)
    target = settings.target
    if "widths" in settings.structures:
        make_unit_criterion(settings.widths.criterion)
        find_widths(stack, settings.widths.kinds)
    elif target.budgets == {"blocks": len(stack)}:
        if config.controls:
            raise UnreachableTargetError(
                f"target blocks={len(stack)} removes and heals nothing, as this network has {len(stack)} blocks, and "
                "controls are trained as the result is healed: ask for fewer blocks, or leave controls out."
            )
        return  # a plain training; nothing has to be removable
    allowed = candidates(stack, settings, protected_blocks(stack, settings.protected))
    if not allowed and "widths" not in settings.structures:
        raise UnreachableTargetError(
            f"no block may be removed: of {len(stack)} blocks {len(stack.removable)} are removable, and guards="
            f"{settings.guards!r}, min_blocks_per_stage={settings.min_blocks_per_stage} and "
            f"{len(settings.protected)} protected blocks leave none. Loosen one of them."
        )
    if allowed:
        smaller_config(stack, stack.removal_group(allowed[0]), class_without_blocks(stack))
    if not target.only_accuracy:
        _check_budgets(stack, settings, inputs)


def smallest(stack: BlockStack, settings: PruneSettings, inputs: dict[str, Tensor]) -> BlockStack:
    """The smallest network that settings allow, by cost; which blocks and units are left would be up to the scores.

    Its weights are those of the network, not copies.

    Raises:
        NotRemovableError: The config of this family cannot express it.
    """
    protected = protected_blocks(stack, settings.protected)
    most = most_removals(stack, settings, protected)
    if most and "blocks" in settings.structures:
        stack = without_blocks(stack, most, example_inputs=stack.inputs or inputs, copy=False)
    if "widths" in settings.structures:
        widths = widths_of(stack, settings.widths, protected)
        ranked = [torch.arange(width.units, dtype=torch.float64) for width in widths.widths]
        queue = UnitQueue(widths, ranked, inputs, settings.widths)
        if len(queue):
            stack = without_units(
                widths, queue.first(len(queue)).units, example_inputs=stack.inputs or inputs, copy=False
            )
    return stack


def _check_budgets(stack: BlockStack, settings: PruneSettings, inputs: dict[str, Tensor]) -> None:
    """Refuses budgets that the smallest network does not hold, and those that the network holds as it is.

    Raises:
        UnreachableTargetError: Likewise; says what can be reached. Of time `check_latency` does.
    """
    target = settings.target
    try:
        least = smallest(stack, settings, inputs)
    except NotRemovableError:
        return  # a family that can express single removals only: how far it gets will be seen
    before, after = (measure_cost(each.model, inputs, latency=False) for each in (stack, least))
    for name, found in target.unmet(before, after, len(least)).items():
        if name != "latency_ms":
            raise UnreachableTargetError(
                f"target {name}={target.budgets[name]} cannot be reached: {_smallest_text(stack, least, settings)} "
                f"has {found}. Ask for at {'most' if name == 'macs_reduction' else 'least'} {found}, or loosen guards."
            )
    if target.blocks is not None and target.blocks > len(stack):
        raise UnreachableTargetError(
            f"target blocks={target.blocks}: this network has {len(stack)} blocks. Ask for {len(least)} to "
            f"{len(stack) - 1}, or for {len(stack)}, a plain training of the original."
        )
    if target.budgets.keys() != {"blocks"} and target.is_met(before, before, len(stack)):
        raise UnreachableTargetError(
            f"the network holds its target as it is ({', '.join(target.budgets)}): nothing would be removed. Ask for "
            "less."
        )


def check_latency(
    stack: BlockStack, settings: PruneSettings, inputs: dict[str, Tensor], accelerator: Accelerator
) -> None:
    """Refuses a budget of time that the smallest network does not hold for certain, by the main process's clock.

    Args:
        stack: Blocks of the network pruning starts from.
        settings: Target and guards.
        inputs: Model inputs of one example.
        accelerator: The processes.

    Raises:
        UnreachableTargetError: Likewise; says how long it takes.
    """
    budget = settings.target.latency_ms
    if budget is None:
        return
    try:
        least = smallest(stack, settings, inputs)
    except NotRemovableError:
        return
    found: Any = None
    if accelerator.is_main_process:
        found = [timed(each.model, inputs, stack.model, budget) for each in (least, stack)]
    latency, before = agreed(found, accelerator)
    others, cost = (
        settings.target.model_copy(update={"latency_ms": None}),
        measure_cost(stack.model, inputs, latency=False),
    )
    if before.upper_ms <= budget.at_most and (others.only_accuracy or others.is_met(cost, cost, len(stack))):
        raise UnreachableTargetError(
            f"the network holds latency_ms={budget.at_most:g} as it is ({before.median_ms:.3g} ms): nothing would be "
            "removed. Ask for less."
        )
    text, low, high = _smallest_text(stack, least, settings), latency.lower_ms, latency.upper_ms
    if latency.is_undecided(budget.at_most):
        raise UnreachableTargetError(
            f"target latency_ms={budget.at_most:g} cannot be decided: {text} takes {low:.3g} to {high:.3g} ms on this "
            "machine, and the budget lies in this spread. Ask for more, or measure on a quieter machine."
        )
    if high > budget.at_most:
        raise UnreachableTargetError(
            f"target latency_ms={budget.at_most:g} cannot be reached: {text} takes {low:.3g} to {high:.3g} ms on this "
            f"machine. Ask for more than {high:.3g}, or loosen the guards."
        )


def _smallest_text(stack: BlockStack, least: BlockStack, settings: PruneSettings) -> str:
    narrowed = ", narrowed" if "widths" in settings.structures else ""
    return f"the smallest network that settings allow ({len(least)} of {len(stack)} blocks{narrowed})"


def steps_left(steps: Sequence[PruningStep], target: Target) -> float | None:
    """How many more steps a latency budget will take, by a line through the networks timed so far: work against time.

    Args:
        steps: Of a run, in order.
        target: Its budgets.

    Returns:
        Steps like the last one, not rounded; None without a budget, or while there is no line.
    """
    timed = [step for step in steps if step.cost.latency is not None]
    if target.latency_ms is None or len(timed) < 2 or timed[-1].cost.macs >= timed[-2].cost.macs:
        return None
    work = np.array([step.cost.macs for step in timed], dtype=float)
    time = np.array([step.cost.latency.median_ms for step in timed if step.cost.latency])
    slope, offset = np.polyfit(work, time, 1)
    if slope <= 0:
        return None
    wanted = (target.latency_ms.at_most - offset) / slope
    return max(0.0, (work[-1] - wanted) / (work[-2] - work[-1]))
