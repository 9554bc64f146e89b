"""Data: load a data set by folder or Hub name, split it without leaks, serve batches."""

from har_prune.data.batches import ImageInputs, SensorInputs, make_loader
from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData, load_data
from har_prune.data.protocols import Splits, make_splits

__all__ = [
    "DataConfig",
    "ImageInputs",
    "LabelledData",
    "SensorInputs",
    "Splits",
    "load_data",
    "make_loader",
    "make_splits",
]
