"""Planning: which blocks may go, which one goes next, what can be reached at all. Plain values, no training."""

from collections.abc import Iterable

from torch import Tensor

from har_prune.blocks.depth import smaller_config
from har_prune.blocks.rebuild import class_without_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.errors import NotRemovableError, UnreachableTargetError, did_you_mean
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.config import PruneSettings
from har_prune.scoring.criteria.base import members, refuse_race
from har_prune.scoring.feature_hook import FeatureHook


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


def check_settings(stack: BlockStack, settings: PruneSettings, inputs: dict[str, Tensor]) -> None:
    """Refuses settings that cannot work before any work is done for them.

    Args:
        stack: Blocks of the network pruning starts from.
        settings: Criterion, representation, target and guards.
        inputs: Model inputs of one example, to count MACs on.

    Raises:
        UnknownCriterionError, ShapeError: No such criterion or representation.
        NotRemovableError, UndeclaredLayerListError: No config could state a smaller depth.
        UnreachableTargetError: Nothing may be removed, or removing all that may go is not enough; says what is.
    """
    members(settings.criterion)
    if settings.calibration.race is not None:
        refuse_race([settings.criterion])
    model = stack.model
    FeatureHook(model, settings.representation)
    if settings.target.blocks == len(stack):
        return  # a plain training; nothing has to be removable
    allowed = candidates(stack, settings, protected_blocks(stack, settings.protected))
    if not allowed:
        raise UnreachableTargetError(
            f"no block may be removed: of {len(stack)} blocks {len(stack.removable)} are removable, and guards="
            f"{settings.guards!r}, min_blocks_per_stage={settings.min_blocks_per_stage} and "
            f"{len(settings.protected)} protected blocks leave none. Loosen one of them."
        )
    smaller_config(stack, stack.removal_group(allowed[0]), class_without_blocks(stack))
    most = most_removals(stack, settings, protected_blocks(stack, settings.protected))
    before = count_macs(model, inputs)
    with stack.bypassed(most):
        count_macs(model, inputs)  # the first bypassed forward still runs a block to see what it returns
        after = count_macs(model, inputs)
    reachable, left = 1 - after / before, len(stack) - len(most)
    target = settings.target
    if target.macs_reduction is not None and target.macs_reduction > reachable:
        raise UnreachableTargetError(
            f"target macs_reduction={target.macs_reduction} cannot be reached: removing all {len(most)} blocks that "
            f"may go reduces the MACs by {reachable:.4f}. Ask for at most {int(reachable * 1e4) / 1e4}, or "
            "loosen the guards."
        )
    if target.blocks is not None and target.blocks < left:
        raise UnreachableTargetError(
            f"target blocks={target.blocks} cannot be reached: at least {left} of {len(stack)} blocks stay. "
            f"Ask for {left} or more, or loosen the guards."
        )
    if target.blocks is not None and target.blocks > len(stack):
        raise UnreachableTargetError(
            f"target blocks={target.blocks}: this network has {len(stack)} blocks. Ask for {left} to "
            f"{len(stack) - 1}, or for {len(stack)}, which removes nothing and only trains."
        )
