"""score_units: the importance of every unit inside the blocks of a network."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from har_prune.errors import DataError, DegenerateFeaturesError
from har_prune.runtime.batches import checked, inputs_for, shard_batch, size_of
from har_prune.runtime.devices import exact_float32
from har_prune.runtime.processes import agreed
from har_prune.scoring.criteria.units import UnitCriterion, make_unit_criterion
from har_prune.scoring.outputs import losses_of, positions_mask
from har_prune.widths.stack import WidthStack

Batches = Iterable[Mapping[str, Any]]


def score_units(
    widths: WidthStack,
    batches: Batches,
    criterion: str = "l1_norm",
    *,
    accelerator: Accelerator | None = None,
    seed: int = 0,
) -> list[Tensor]:
    """Scores the units of every width. The model comes back as it was.

    Args:
        widths: What `find_widths` returned.
        batches: Dicts of model inputs, with labels where the criterion needs them; not read by one that needs nothing.
        criterion: A registered name: l1_norm, activation, taylor, random.
        accelerator: Joins processes, each of which works on its rows; None = one process.
        seed: Of what the criterion draws.

    Returns:
        Importance of the units of each width, [units] in float64; higher = keep. Scales of widths differ.

    Raises:
        UnknownCriterionError: Nothing is registered under the name.
        DataError: There are no batches, or no labels where the criterion needs them.
        DegenerateFeaturesError: An importance is not finite.
    """
    made = make_unit_criterion(criterion, seed)
    if made.needs == "nothing":
        found = [made.of_weights(width).double().cpu() for width in widths.widths]
    else:
        found = _measured(widths, checked(batches, "calibration"), made, accelerator)
    for width, values in zip(widths.widths, found, strict=True):
        if not bool(values.isfinite().all()):
            raise DegenerateFeaturesError(
                f"units of {width.name!r} have no score by {criterion!r}: weights, values or gradients hold NaN or "
                "infinity."
            )
    return agreed(found, accelerator)


def _measured(
    widths: WidthStack, batches: Batches, criterion: UnitCriterion, accelerator: Accelerator | None
) -> list[Tensor]:
    """Means over examples, of all processes."""
    model = widths.stack.model
    device, was_training = model.device, model.training
    totals = [torch.zeros(width.units, dtype=torch.float64, device=device) for width in widths.widths]
    count = torch.zeros((), dtype=torch.float64, device=device)
    model.eval()
    try:
        with exact_float32(True):
            for batch in batches:
                rows = shard_batch(batch, accelerator)
                if rows is None:
                    continue
                count += size_of(rows)
                for total, of_examples in zip(totals, _of_batch(widths, rows, criterion), strict=True):
                    total += of_examples.to(device).sum(0)
    finally:
        model.train(was_training)
    if accelerator is not None and accelerator.num_processes > 1:
        totals = [accelerator.reduce(total, "sum") for total in totals]
        count = accelerator.reduce(count, "sum")
    if not count:
        raise DataError("there are no calibration batches.")
    return [(total / count).cpu() for total in totals]


def _of_batch(widths: WidthStack, batch: Mapping[str, Any], criterion: UnitCriterion) -> list[Tensor]:
    """[N, units] for each width."""
    model, labels = widths.stack.model, batch.get("labels")
    given: dict[int, Tensor] = {}
    differentiates = criterion.needs == "gradients"
    if differentiates and (labels is None or labels.ndim != 1):
        raise DataError(
            "the criterion needs a classifier's labels, one class index for each example; a batch has "
            f"{', '.join(batch)}{'' if labels is None else f' with labels of shape {tuple(labels.shape)}'}. Add them, "
            "or choose a criterion that needs none, e.g. l1_norm."
        )
    handles, inputs = [], inputs_for(model, batch)
    for width in widths.widths:

        def keep(module: Any, args: tuple, index: int = width.index) -> tuple | None:
            values = args[0]
            if differentiates and not values.requires_grad:  # everything in front of it is frozen
                values = values.detach().requires_grad_()
            given[index] = values
            return (values, *args[1:])

        handles.append(width.reader.register_forward_pre_hook(keep))
    try:
        with torch.set_grad_enabled(differentiates):
            output = model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    read = [given[width.index] for width in widths.widths]
    slopes: Iterable[Any] = [None] * len(read)
    if differentiates and labels is not None:  # not backward(): the user's parameters keep the gradients they have
        slopes = torch.autograd.grad(losses_of(output, labels).sum(), read)
    found = []
    for width, values, slope in zip(widths.widths, read, slopes, strict=True):
        parts = width.by_unit(values.detach())
        mask = positions_mask(model, parts.flatten(2), inputs.get("attention_mask"))[..., None]
        found.append(criterion.of_values(parts, None if slope is None else width.by_unit(slope), mask))
    return found
