"""Batches: raw examples -> the processor's normalisation -> model inputs; in training also their augmentation."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedConfig

from har_prune.data.channels import OF_CHANNELS, ChannelMatch, match_channels
from har_prune.data.load import LabelledData
from har_prune.data.transforms import AUGMENTATIONS, OF_EPOCHS
from har_prune.errors import CheckpointError, DataError
from har_prune.runtime.batches import IGNORED, INDEX, LABELS, most_tokens
from har_prune.runtime.devices import uses_gpu
from har_prune.runtime.images import processor_does

Raw = Tensor | list
Preprocess = Callable[[Any], dict[str, Tensor]]  # of what LabelledData.raw gives


class SensorInputs:
    """Windows in physical units [B, T, C] -> `input_values`, and `attention_mask` where a window was padded.

    Args:
        extractor: The model's feature extractor.
        sampling_rate_hz: Rate of the windows.
        channels: Makes the model's channels out of the windows'; None where they are the same.
    """

    def __init__(self, extractor: Any, sampling_rate_hz: float, channels: ChannelMatch | None = None):
        self.extractor, self.sampling_rate_hz, self.channels = extractor, sampling_rate_hz, channels
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float64) for values in (extractor.channel_mean, extractor.channel_std)
        )

    def augmented(self, values: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
        """Normalised windows [B, T, C], augmented in physical units."""
        mean, std = (moment.to(values.device, values.dtype) for moment in (self._mean, self._std))
        return (augment(values * std + mean) - mean) / std

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        windows = self.channels(windows) if self.channels else windows
        same_rate = self.sampling_rate_hz == self.extractor.sampling_rate_hz
        if same_rate and windows.shape[1] == self.extractor.window_size and bool(windows.isfinite().all()):
            return {"input_values": ((windows.double() - self._mean) / self._std).float()}
        features = self.extractor(windows.numpy(), sampling_rate_hz=self.sampling_rate_hz, return_tensors="pt")
        if features["attention_mask"].all():  # attention without a mask is faster
            return {"input_values": features["input_values"]}
        return dict(features)


class ImageInputs:
    """Images -> `pixel_values`, channels last in memory.

    A tensor [B, 3, H, W] of uint8 in the model's size is rescaled and normalised here, on the whole batch, with the
    processor's numbers, where that gives what the processor gives; anything else, lists of images [H, W, 3] too, goes
    through the processor itself.

    Args:
        processor: The model's image processor.
    """

    def __init__(self, processor: Any):
        self.processor = processor
        self._alike: bool | None = None

    def __call__(self, images: Raw) -> dict[str, Tensor]:
        if isinstance(images, list) or not self._only_normalises(images):
            several = images if isinstance(images, list) else list(images.permute(0, 2, 3, 1).numpy())
            return {"pixel_values": self.processor(images=several, return_tensors="pt")["pixel_values"]}
        return {"pixel_values": self._normalised(images).contiguous(memory_format=torch.channels_last)}

    def _normalised(self, images: Tensor) -> Tensor:
        values = images.float()
        if self.processor.do_rescale:
            values = values * self.processor.rescale_factor
        if self.processor.do_normalize:
            mean, std = (torch.tensor(v)[:, None, None] for v in (self.processor.image_mean, self.processor.image_std))
            values = (values - mean) / std
        return values

    def _only_normalises(self, images: Tensor) -> bool:
        """Whether the processor does to these no more than `_normalised`: some flip channels, or normalise twice."""
        processor = self.processor
        size = processor.size if getattr(processor, "do_resize", False) else None
        if not _has_size(images, size) or getattr(processor, "do_center_crop", False):
            return False
        if self._alike is None:
            self._alike = processor_does(processor, self._normalised, images.shape[2:])
        return self._alike

    @property
    def limits(self) -> tuple[Tensor, Tensor]:
        """What the brightness 0 and the brightness 1 become, [C, 1, 1] each."""
        flat = [np.full((32, 32, 3), value, dtype=np.uint8) for value in (0, 255)]
        made = self.processor(images=flat, return_tensors="pt")["pixel_values"]
        black, white = made[:, :, made.shape[2] // 2, made.shape[3] // 2, None, None]
        return black, white

    def augmented(self, values: Tensor, augment: Callable[[Tensor], Tensor]) -> Tensor:
        """Normalised images [B, C, H, W], augmented as they are: pixels only change places."""
        return augment(values).contiguous(memory_format=torch.channels_last)


def _has_size(images: Tensor, size: Any) -> bool:
    return size is None or (size.get("height"), size.get("width")) == tuple(images.shape[2:])


class TextInputs:
    """Texts -> `input_ids` and `attention_mask`, padded to the longest of the batch.

    Args:
        tokenizer: The model's tokenizer, with a padding token.
        max_tokens: Longer texts are cut.
        next_token: Whether to predict the next token: `labels` are then the tokens, and -100 where there is none.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, next_token: bool):
        self.tokenizer, self.next_token = tokenizer, next_token
        self.max_tokens = min(max_tokens, tokenizer.model_max_length)

    def fit(self, config: PreTrainedConfig) -> None:
        """Cuts texts at what a network has positions for, which its tokenizer need not know."""
        self.max_tokens = most_tokens(config, self.max_tokens)

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        inputs = self._tokens(texts, "longest", self.max_tokens)
        if self.next_token:
            inputs[LABELS] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
        return inputs

    def longest(self, texts: list[str]) -> dict[str, Tensor]:
        """Model inputs padded to the most tokens that the network is given: what it costs grows with the length."""
        return self._tokens(texts, "max_length", self.max_tokens)

    def _tokens(self, texts: list[str], padding: str, most: int) -> dict[str, Tensor]:
        made = self.tokenizer(
            list(texts), padding=padding, truncation=True, max_length=most, return_tensors="pt", padding_side="right",
            return_token_type_ids=False,
        )  # fmt: skip
        return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}


def preprocess_for(data: LabelledData, processor: Any, checkpoint: str, max_tokens: int = 128) -> Preprocess:
    """The preparation of a data set's batches for a model; `processor` is None where the checkpoint has none.

    Args:
        data: The data set.
        processor: Feature extractor, image processor or tokenizer of the model.
        checkpoint: Its name, for messages.
        max_tokens: Longer texts are cut.

    Raises:
        CheckpointError: The checkpoint has no processor of the kind the data needs, or takes channels that they lack.
    """
    if data.kind == "sensor" and isinstance(data.values, np.ndarray) and hasattr(processor, "sampling_rate_hz"):
        windows = data.sensor | {"window_s": data.values.shape[1] / data.sensor["sampling_rate_hz"]}
        channels = match_channels(windows, data.values.shape[2], processor, checkpoint)
        return SensorInputs(processor, data.sensor["sampling_rate_hz"], channels)
    if data.kind == "image" and hasattr(processor, "do_rescale"):
        return ImageInputs(processor)
    if data.kind == "text" and hasattr(processor, "pad_token"):
        return TextInputs(processor, max_tokens, next_token=data.labels is None)
    kinds = {
        "sensor": "feature extractor with sampling_rate_hz (preprocessor_config.json)",
        "image": "image processor (preprocessor_config.json)",
        "text": "tokenizer (tokenizer.json)",
    }
    raise CheckpointError(f"checkpoint {checkpoint} has no {kinds[data.kind]}, and its inputs are made by one.")


Change = Callable[[Any, int], Any]  # of a raw example ([H, W, 3], [T, C] or a text) and the number of its row


class LabelledRows(Dataset):
    """Rows of a data set, fetched a whole batch at a time.

    Args:
        data: The data set.
        rows: Numbers of its rows.
        change: What becomes of each raw example first; None = nothing.
    """

    def __init__(self, data: LabelledData, rows: Sequence[int] | np.ndarray, change: Change | None = None):
        self.data, self.rows, self.change = data, np.asarray(rows), change

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the data set and these rows of it."""
        return hashlib.sha256(self.data.fingerprint.encode() + self.rows.astype(np.int64).tobytes()).hexdigest()

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """Subject and trial of each row, [N], where the data have them."""
        known = {"subject": self.data.subjects, "trial": self.data.trials}
        return {name: values[self.rows] for name, values in known.items() if values is not None}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Raw, Tensor | None, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> tuple[Raw, Tensor | None, Tensor]:
        rows, labels = self.rows[indices], self.data.labels
        raw = self.data.raw(rows) if self.change is None else self._changed(self.change, rows)
        return raw, None if labels is None else torch.from_numpy(labels[rows]), torch.tensor(indices)

    def _changed(self, change: Change, rows: np.ndarray) -> Raw:
        raw, numbers = self.data.raw(rows), rows.tolist()
        if isinstance(raw, list):
            return [change(example, row) for example, row in zip(raw, numbers, strict=True)]
        channels_first = self.data.kind == "image"
        examples = (raw.permute(0, 2, 3, 1) if channels_first else raw).numpy()
        found = torch.from_numpy(np.stack([change(*pair) for pair in zip(examples, numbers, strict=True)]))
        return found.permute(0, 3, 1, 2) if channels_first else found


class _Collate:
    def __init__(self, preprocess: Preprocess):
        self.preprocess = preprocess

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        values, labels, index = batch  # as LabelledRows fetched it, not a list of examples
        inputs = self.preprocess(values)
        return {**(inputs if labels is None else {**inputs, LABELS: labels}), INDEX: index}


class Augment:
    """The augmentations of a training loader: `loader.augment(batch, epoch)`, on the device the batch is on.

    Args:
        names: Augmentations, in order.
        kind: Of the data: "sensor", "image".
        preprocess: What normalised the batch.
    """

    def __init__(self, names: Sequence[str], kind: str, preprocess: Any):
        self.names, self.known, self.preprocess = names, AUGMENTATIONS[kind], preprocess
        self.of_channels: dict[str, tuple[Tensor | None]] = {
            name: (OF_CHANNELS[name](preprocess.extractor.channel_names, preprocess.extractor.channel_units),)
            for name in names
            if name in OF_CHANNELS
        }

    def __call__(self, batch: Mapping[str, Any], epoch: int) -> dict[str, Any]:
        """The batch with its first input augmented."""
        batch = dict(batch)
        told: dict[str, tuple] = {**self.of_channels, **{name: (batch[INDEX], epoch) for name in OF_EPOCHS}}

        def augment(values: Tensor) -> Tensor:
            for name in self.names:
                values = self.known[name](values, *told.get(name, ()))
            return values

        name = next(iter(batch))
        values, mask = batch[name], batch.get("attention_mask")
        real = values.shape[1] if mask is None else int(mask.sum(dim=1).max())  # behind it is what pads a short window
        augmented = self.preprocess.augmented(values[:, :real], augment)
        batch[name] = augmented if mask is None else torch.cat([augmented, values[:, real:]], dim=1)
        return batch


class LabelledLoader(DataLoader):
    """Batches of a data set, and how they are made; in training they are augmented where they are trained on.

    Args:
        rows: What they are made of.
        preprocess: Preparation for the model.
        augment: Called with a batch and the number of the epoch; None = nothing is augmented.
        given: What a DataLoader takes.
    """

    def __init__(
        self,
        rows: LabelledRows,
        preprocess: Preprocess,
        *,
        augment: Callable[[Mapping[str, Any], int], dict[str, Any]] | None,
        **given: Any,
    ):
        super().__init__(rows, collate_fn=_Collate(preprocess), **given)
        self.source, self.preprocess, self.augment = rows, preprocess, augment


def make_loader(
    data: LabelledData,
    rows: Sequence[int] | np.ndarray,
    preprocess: Preprocess,
    batch_size: int,
    *,
    augment: Sequence[str] | None = None,
    change: Change | None = None,
) -> LabelledLoader:
    """Batches of some rows: in order, or shuffled and augmented for training.

    Args:
        data: The data set.
        rows: Its rows to serve.
        preprocess: Preparation for the model.
        batch_size: Examples in a batch; the last may be smaller, except in training.
        augment: Names of augmentations; an empty list shuffles only, None does neither.
        change: What becomes of each raw example first: `(example, row)` -> example.

    Raises:
        DataError: An augmentation is not for this kind of data.
    """
    training = augment is not None
    known = AUGMENTATIONS[data.kind]
    for name in augment or ():
        if name not in known:
            raise DataError(
                f"augmentation {name!r} is not for {data.kind} data (there: {', '.join(known) or 'none yet'})."
            )
    on_gpu = uses_gpu()
    # A GPU would wait for batches; on a CPU workers would take the cores that train. Windows are ready in a third of
    # the time that it takes to be handed them.
    workers = min(4, os.cpu_count() or 1) if on_gpu and training and data.kind != "sensor" else 0
    return LabelledLoader(
        LabelledRows(data, rows, change),
        preprocess,
        batch_size=batch_size,
        shuffle=training,
        drop_last=training and len(rows) >= batch_size,
        augment=Augment(augment, data.kind, preprocess) if augment else None,
        num_workers=workers,
        persistent_workers=workers > 0,  # a small network's epoch is as short as their start
        pin_memory=on_gpu,
    )
