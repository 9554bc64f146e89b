"""How close networks stay to one: CKA of representations, each network an ordinary forward."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.errors import DataError
from har_prune.runtime.batches import inputs_for, rows_of, shard_batch, size_of
from har_prune.runtime.devices import exact_float32
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.runtime.processes import agreed
from har_prune.scoring.criteria.base import Task
from har_prune.scoring.criteria.representation import CkaCriterion
from har_prune.scoring.measurements import Measurements
from har_prune.scoring.statistics import GroupedStatistics

Batches = Iterable[Mapping[str, Any]]


@torch.no_grad()
def similarities(
    model: PreTrainedModel,
    batches: Batches,
    changes: Mapping[str, Callable[[], AbstractContextManager]],
    *,
    reference: PreTrainedModel | None = None,
    representation: str | None = None,
    accelerator: Accelerator | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Linear CKA between the representation of a network and of what changes make of it.

    Args:
        model: The network, in eval mode, on the device to work on.
        batches: Dicts of model inputs.
        changes: {name: a context inside which the model computes as another network, e.g. with blocks bypassed}.
        reference: A network to compare with; None = the model as it is.
        representation: As in `FeatureHook`.
        accelerator: Joins processes, each of which works on its rows; None = one process.
        seed: Of the sketch, where the representation is too wide for exact statistics.

    Returns:
        {name: CKA in [0, 1]}.

    Raises:
        DataError: There are no batches.
        DegenerateFeaturesError: A representation is constant or not finite.
    """
    hook = FeatureHook(model, representation)
    other = hook if reference is None else FeatureHook(reference, representation)
    criterion: Any = CkaCriterion(Task([None] * len(changes), seed))  # type: ignore[list-item]
    statistics: GroupedStatistics | None = None

    def measured(rows: Mapping[str, Any]) -> Measurements:
        inputs = inputs_for(model, rows)
        expected = other.read(inputs)[0]
        found = []
        for change in changes.values():
            with change():
                found.append(hook.read(inputs)[0])
        everything = torch.arange(size_of(rows))[None]
        return Measurements(tuple(range(len(changes))), expected[None], torch.stack(found)).rows(everything)

    with exact_float32(True):
        for batch in batches:
            if statistics is None:
                first = measured(rows_of(batch, slice(2)))  # the same in every process
                criterion.start(Measurements(first.blocks, first.reference[:, 0], first.without[:, 0]))
                statistics = GroupedStatistics(criterion.statistics(first), 1)
            rows = shard_batch(batch, accelerator)
            if rows is not None:
                statistics.add(torch.zeros(1, dtype=torch.long), criterion.statistics(measured(rows)))
    if statistics is None:
        raise DataError("there are no calibration batches.")
    joined = statistics.joined(accelerator)
    found = {name: 1 - float(joined.of_all(place, criterion)) for place, name in enumerate(changes)}
    return agreed(found, accelerator)
