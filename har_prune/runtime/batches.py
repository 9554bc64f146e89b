"""Batches: dicts of tensors whose first dimension counts examples, how processes share them, and their fingerprint."""

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel

from har_prune.errors import DataError

LABELS = "labels"
_LOGITS = ("logits", "prediction_logits", "prediction_outputs")  # PatchTST, PatchTSMixer
IGNORED = -100  # the label of a token that is not predicted
INDEX = "index"  # of each example in the data set of the loader, where there is one
_LOOKED_AT = 64  # examples (or batches) of somebody else's data that a fingerprint is made of


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but labels and index."""
    return {key: value for key, value in _items(batch) if key not in (LABELS, INDEX)}


def logits_of(output: Any) -> Tensor:
    """What a classifier answers, by the name its class gives that.

    Raises:
        DataError: It is no output of a classifier.
    """
    for name in _LOGITS:
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    raise DataError(
        f"the network returns a {type(output).__name__} without logits: a classifier is wanted, such as one of "
        "AutoModelForImageClassification or AutoModelForSequenceClassification, and not its body alone."
    )


def as_computed(inputs: Mapping[str, Any], network: nn.Module) -> dict[str, Any]:
    """Inputs in the precision of a network's weights, which may be another than they were made for while it trains."""
    dtype = next((weight.dtype for weight in network.parameters() if weight.is_floating_point()), None)
    return {
        name: value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def inputs_for(network: PreTrainedModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a network is given of a batch: on its device, in the precision of its weights, without labels and index."""
    return as_computed(to_device(inputs_of(batch), network.device), network)


def size_of(batch: Mapping[str, Any]) -> int:
    """Examples in a batch."""
    return len(next(value for _, value in _items(batch)))


def checked(batches: Any, what: str) -> Any:
    """The same batches, once it is clear that they are some.

    Raises:
        DataError: There are none, or a data set of single examples was given, or what Accelerate has split already.
    """
    if batches is None:
        raise DataError(f"there are no {what} batches: give a DataLoader, or a list of batches.")
    if isinstance(batches, Dataset) or type(batches).__module__.startswith("datasets."):
        raise DataError(
            f"{what}: a {type(batches).__name__} has single examples, and batches are wanted: put it into a "
            "torch.utils.data.DataLoader whose batches are dicts of model inputs."
        )
    is_split = getattr(batches, "_is_accelerate_prepared", False) and PartialState().num_processes > 1
    if is_split and what != "training":  # of which each process takes its share as Accelerate gives it
        raise DataError(
            f"{what}: accelerator.prepare has given each process a part of these batches, and processes share whole "
            "ones here: give the loader as it was before."
        )
    return batches


def generators_of(loader: Any) -> list[tuple[Any, Any]]:
    """Who draws the order of a loader's examples, each with its generator, which may be None."""
    batches = getattr(loader, "batch_sampler", None)
    owners = [loader, getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None)]
    return [(owner, owner.generator) for owner in owners if hasattr(owner, "generator")]


@contextmanager
def drawn_by(seed: int, loader: Any) -> Iterator[None]:
    """Everything random follows from a seed, also what a loader draws by generators, which stay as they are."""
    set_seed(seed)
    own = [(owner, generator) for owner, generator in generators_of(loader) if generator is not None]
    try:
        for owner, _ in own:
            owner.generator = torch.Generator().manual_seed(seed)
        yield
    finally:
        for owner, generator in own:
            owner.generator = generator


def _items(batch: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(batch, Mapping):
        raise DataError(
            f"a batch is a {type(batch).__name__}, and a dict is wanted: model inputs by name, with `labels`, e.g. "
            '{"pixel_values": ..., "labels": ...}. A collate_fn of the DataLoader makes one.'
        )
    return [(name, value) for name, value in batch.items() if value is not None]


def rows_of(batch: Mapping[str, Any], rows: slice | list[int]) -> dict[str, Any]:
    """Some examples of a batch."""

    def taken(value: Any) -> Any:
        return [value[row] for row in rows] if isinstance(rows, list) and isinstance(value, list) else value[rows]

    return {key: taken(value) for key, value in _items(batch)}


def most_tokens(config: PreTrainedConfig, wanted: int) -> int:
    """How many tokens a network is given at most: no more than it has positions for, of which RoBERTa wastes two."""
    positions = getattr(config, "max_position_embeddings", None) or -1  # XLNet says -1: any
    return min(wanted, positions - 2) if positions > 2 else wanted


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on a device."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in _items(batch)}


def shard_batch(batch: Mapping[str, Any], accelerator: Accelerator | None) -> dict[str, Any] | None:
    """This process's rows of a batch that all processes see: every num_processes-th.

    Nothing is padded and nothing is seen twice, whatever the batch size.

    Returns:
        The rows; None when there are none for this process.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    rows = rows_of(batch, slice(rank, None, processes))
    return rows if size_of(rows) else None


def fingerprint_of(batches: Any) -> str | None:
    """SHA-256 that tells data apart, whatever their order in an epoch; None where they cannot be looked at.

    Args:
        batches: A DataLoader, or a list of batches. A data set that has a `fingerprint` of its own is believed; of
            another its length and up to 64 examples, evenly spread, are hashed. Random state is left as it was.
    """
    source = getattr(batches, "dataset", batches)
    own = getattr(source, "fingerprint", None)
    if isinstance(own, str):
        return own
    if isinstance(source, IterableDataset) or not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        return None
    with _random_state_kept():
        try:
            first, second = _digest_of(source), _digest_of(source)
        except (LookupError, TypeError, NotImplementedError):  # not addressed by numbers
            return None
    # Examples that are augmented out of a generator of their own differ every time: then only their number counts.
    return first if first == second else hashlib.sha256(str(len(source)).encode()).hexdigest()


def _digest_of(source: Any) -> str:
    digest = hashlib.sha256(str(len(source)).encode())
    for index in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).astype(int).tolist():
        _seed_all(index)
        _update(digest, source[index])
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Adds a value of an example: tensors, arrays, images and plain values, in whatever they are nested."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        digest.update(str(len(value)).encode())
        for item in value:
            _update(digest, item)
    elif isinstance(value, str | bytes | int | float | None):
        digest.update(repr(value).encode())
    elif isinstance(value, Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        array = np.asarray(value)  # of an image its pixels
        digest.update(f"{array.dtype} {array.shape}".encode())
        if array.dtype != object:
            digest.update(array.tobytes())


@contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def _seed_all(seed: int) -> None:
    """Examples that are augmented out of the global generators are the same in every run."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
