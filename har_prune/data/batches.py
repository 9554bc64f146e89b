"""Batches: raw examples -> augmentation (training only) -> the processor's normalisation -> model inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from har_prune.data.load import LabelledData
from har_prune.errors import CheckpointError, DataError
from har_prune.training.augment import AUGMENTATIONS, Augmentation

Inputs = Callable[[Tensor], dict[str, Tensor]]


class SensorInputs:
    """Windows in physical units [B, T, C] -> `input_values`, and `attention_mask` where a window was padded.

    Args:
        extractor: The model's feature extractor.
        sampling_rate_hz: Rate of the windows.
    """

    def __init__(self, extractor: Any, sampling_rate_hz: float):
        self.extractor, self.sampling_rate_hz = extractor, sampling_rate_hz

    def __call__(self, windows: Tensor) -> dict[str, Tensor]:
        features = self.extractor(windows.numpy(), sampling_rate_hz=self.sampling_rate_hz, return_tensors="pt")
        if features["attention_mask"].all():  # attention without a mask is faster
            return {"input_values": features["input_values"]}
        return dict(features)


class ImageInputs:
    """Images [B, 3, H, W] of uint8 -> `pixel_values`, channels last in memory.

    Rescaling and normalising are done here on the whole batch with the processor's numbers; any other image size
    goes through the processor itself.

    Args:
        processor: The model's image processor.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        processor = self.processor
        size = processor.size if getattr(processor, "do_resize", False) else None
        if size is not None and (size.get("height"), size.get("width")) != tuple(images.shape[2:]):
            values = processor(images=list(images.permute(0, 2, 3, 1).numpy()), return_tensors="pt")["pixel_values"]
            return {"pixel_values": values}
        values = images.float()
        if processor.do_rescale:
            values = values * processor.rescale_factor
        if processor.do_normalize:
            mean, std = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
            values = (values - mean) / std
        return {"pixel_values": values.contiguous(memory_format=torch.channels_last)}


def inputs_for(data: LabelledData, processor: Any, checkpoint: str) -> Inputs:
    """The preparation of a data set's batches for a model; `processor` is None where the checkpoint has none.

    Raises:
        CheckpointError: The checkpoint has no processor of the kind the data needs.
    """
    if data.kind == "sensor" and hasattr(processor, "sampling_rate_hz"):
        channels = data.values.shape[2]
        if processor.num_channels != channels:
            raise CheckpointError(
                f"checkpoint {checkpoint} takes {processor.num_channels} channels ({processor.channel_names}) and the "
                f"data have {channels} ({data.sensor.get('channels')}): use data of the same sensors."
            )
        return SensorInputs(processor, data.sensor["sampling_rate_hz"])
    if data.kind == "image" and hasattr(processor, "do_rescale"):
        return ImageInputs(processor)
    kind = "feature extractor with sampling_rate_hz" if data.kind == "sensor" else "image processor"
    raise CheckpointError(
        f"checkpoint {checkpoint} has no {kind} (preprocessor_config.json), and its inputs are made by one."
    )


class _Rows(Dataset):
    """Rows of a data set, fetched a whole batch at a time."""

    def __init__(self, data: LabelledData, rows: Sequence[int] | np.ndarray):
        self.values, self.labels, self.rows = data.values, data.labels, np.asarray(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        rows = self.rows[indices]
        return torch.from_numpy(self.values[rows]), torch.from_numpy(self.labels[rows])


class _Collate:
    def __init__(self, inputs: Inputs, augmentations: list[Augmentation]):
        self.inputs, self.augmentations = inputs, augmentations

    def __call__(self, batch: Any) -> dict[str, Tensor]:
        values, labels = batch  # as _Rows fetched it, not a list of examples
        for augment in self.augmentations:
            values = augment(values)
        return {**self.inputs(values), "labels": labels}


def make_loader(
    data: LabelledData,
    rows: Sequence[int] | np.ndarray,
    inputs: Inputs,
    batch_size: int,
    *,
    augment: Sequence[str] | None = None,
) -> DataLoader:
    """Batches of some rows: in order, or shuffled and augmented for training.

    Args:
        data: The data set.
        rows: Its rows to serve.
        inputs: Preparation for the model.
        batch_size: Examples in a batch; the last may be smaller, except in training.
        augment: Names of augmentations; an empty list shuffles only, None does neither.
    """
    training = augment is not None
    known = AUGMENTATIONS[data.kind]
    for name in augment or ():
        if name not in known:
            raise DataError(f"augmentation {name!r} is not for {data.kind} data (there: {', '.join(known)}).")
    return DataLoader(
        _Rows(data, rows),
        batch_size=batch_size,
        shuffle=training,
        drop_last=training and len(rows) >= batch_size,
        collate_fn=_Collate(inputs, [known[name] for name in augment or ()]),
    )
