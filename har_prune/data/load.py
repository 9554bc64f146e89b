"""Reads a data set: sensor windows, images, or texts."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError
from torch import Tensor

from har_prune.checkpoints.load import is_missing_folder
from har_prune.data.card import renamed, sensor_facts
from har_prune.data.config import DataConfig
from har_prune.data.images import ImageColumn, read_images
from har_prune.data.memory import expect_memory
from har_prune.errors import DataError

SYNTHETIC = "synthetic"
_TEXT = ("string", "large_string", "string_view")  # pandas reads the texts of a CSV as the second (datasets 5.2)
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class LabelledData:
    """Examples with labels.

    Args:
        kind: "sensor", "image" or "text".
        values: Windows [N, T, C] float32 in physical units; images [N, 3, H, W] uint8, or a column of them that is
            read when needed, where they differ in size or are too many to keep; texts, [N] objects.
        labels: Class indices, [N]; None for texts without classes, whose task is to predict the next token.
        label_names: Class names by index.
        splits: The data set's own split of each row, [N], e.g. "train".
        subjects: Subject of each row, [N]; None for other data than windows.
        sensor: The card's facts about windows: sampling_rate_hz, channels, units; empty for other data.
        trials: Continuous recording each window was cut from, [N]; None for other data than windows.
    """

    kind: Literal["sensor", "image", "text"]
    values: np.ndarray | ImageColumn
    labels: np.ndarray | None
    label_names: list[str]
    splits: np.ndarray
    subjects: np.ndarray | None = None
    sensor: dict[str, Any] = field(default_factory=dict)
    trials: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.splits)

    @cached_property
    def subject_codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Names of all subjects, sorted, and the index of each row's, [N]; none where there are no subjects."""
        return np.unique(np.array([], dtype=str) if self.subjects is None else self.subjects, return_inverse=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all that is here; of images that are read when needed, over some that lie evenly spread."""
        digest = hashlib.sha256(repr((self.kind, self.label_names, sorted(self.sensor.items()))).encode())
        for values in (self.labels, self.splits, self.subjects, self.trials, self.values):
            if isinstance(values, ImageColumn):
                digest.update(values.fingerprint.encode())
            elif values is not None and values.dtype == object:
                for text in values:
                    digest.update(repr(text).encode())
            elif values is not None:
                digest.update(f"{values.dtype} {values.shape}".encode())
                digest.update(np.ascontiguousarray(values).view(np.uint8).data)
        return digest.hexdigest()

    def raw(self, rows: Any) -> Tensor | list:
        """Some rows as they are read: a tensor of windows or images, or a list of texts or images [H, W, 3]."""
        values = self.values[rows]
        return torch.from_numpy(values) if isinstance(values, np.ndarray) and values.dtype != object else list(values)


def load_configured(config: DataConfig) -> LabelledData:
    """Loads the data set of a recipe; see `load_data`."""
    return load_data(config.name_or_path, config.subset, config.revision, config.rename_channels)


def load_data(
    name_or_path: str,
    subset: str | None = None,
    revision: str | None = None,
    rename_channels: Mapping[str, str] | None = None,
) -> LabelledData:
    """Loads a data set. Rows with a label below 0 (not labelled) are left out.

    Args:
        name_or_path: A folder, a Hub id, or "synthetic".
        subset: Configuration of a data set that has several.
        revision: Branch, tag or commit of a Hub repository.
        rename_channels: New name of a channel of windows by its name on the data's card.

    Raises:
        DataError: It is missing, empty or not in a known format, does not fit in memory, its card states what cannot
            be, or a window holds NaN or infinity.
    """
    synthetic = name_or_path == SYNTHETIC
    tables, sensor = _synthetic() if synthetic else (_load(name_or_path, subset, revision), {})
    pa.default_memory_pool().release_unused()  # Arrow keeps what it read files with: as much as the windows themselves
    for name, table in tables.items():
        if not len(table):
            raise DataError(f"data set {name_or_path!r}: split {name!r} is empty.")
    splits = np.concatenate([np.full(len(table), str(name)) for name, table in tables.items()])
    table = concatenate_datasets(list(tables.values()))
    if rename_channels and "input_values" not in table.column_names:
        raise DataError(
            f"rename_channels is for sensor windows, and data set {name_or_path!r} has none: leave it out."
        )
    text_column, label_column = _text_column(table), _label_column(table)
    unnamed = [name for name in ("label", "labels") if name in table.column_names and name != label_column]
    if text_column is not None and label_column is None and not unnamed:
        return _texts(table, text_column, splits)
    if label_column is None:
        raise DataError(
            f"data set {name_or_path!r}: expected one column of class labels called 'label' with names "
            f"(ClassLabel); its columns are {', '.join(table.column_names)}. Dataset.class_encode_column makes one: "
            f"load_dataset({name_or_path!r}).class_encode_column('label').save_to_disk('NEW') is a folder that has it."
        )
    labels = np.asarray(table.with_format("numpy")[label_column][:], dtype=np.int64)
    names = list(table.features[label_column].names)
    labelled = np.flatnonzero(labels >= 0)
    if len(labelled) < len(labels):
        table, labels, splits = table.select(labelled), labels[labelled], splits[labelled]
    image_column = next((name for name, feature in table.features.items() if isinstance(feature, Image)), None)
    if "input_values" in table.column_names and "subject" in table.column_names:
        windows = _windows(table, name_or_path)
        sensor = renamed(sensor or sensor_facts(name_or_path, revision, windows.shape[2]), rename_channels or {})
        subjects = _whole_column(table, "subject", name_or_path).astype(str)
        trials = _whole_column(table, "trial", name_or_path) if "trial" in table.column_names else None
        return LabelledData("sensor", windows, labels, names, splits, subjects, sensor, trials)
    if image_column is not None:
        return LabelledData("image", read_images(table, image_column), labels, names, splits)
    if text_column is not None:
        texts = _whole_column(table, text_column, name_or_path).tolist()
        return LabelledData("text", _objects(texts), labels, names, splits)
    raise DataError(
        f"data set {name_or_path!r} has the columns {', '.join(table.column_names)}; expected input_values, label and "
        "subject (sensor windows, see `python -m data_prep`), an image column and label, or a text column."
    )


def _synthetic() -> tuple[DatasetDict, dict[str, Any]]:
    from data_prep.hub_folder import metadata, to_dataset
    from data_prep.readers import synthetic
    from data_prep.recordings import Windowing

    windowing = Windowing(synthetic.INFO)
    return DatasetDict({"train": to_dataset(synthetic.recordings(), windowing)}), metadata(windowing)


def _load(name_or_path: str, subset: str | None, revision: str | None) -> DatasetDict:
    folder = Path(name_or_path)
    if folder.is_file():
        raise DataError(f"data {name_or_path} is a file: give the folder that it is in.")
    if is_missing_folder(name_or_path):
        raise DataError(
            f"data folder {name_or_path} does not exist. Prepare it with `python -m data_prep`, or give the id of a "
            "data set on the Hub."
        )
    if folder.exists() and not any(path.is_file() for path in folder.rglob("*")):
        raise DataError(f"data folder {name_or_path} is empty. Prepare it with `python -m data_prep`.")
    if folder.exists() and revision is not None:
        raise DataError(f"data folder {name_or_path} has no revisions: leave data.revision out.")
    try:
        if folder.exists():
            return _load_folder(folder, subset)
        return load_dataset(name_or_path, subset, revision=revision)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(
            f"data set {name_or_path!r} is neither a folder here nor reachable on the Hub ({error}). Sensor data are "
            "prepared with `python -m data_prep`."
        ) from error
    except Exception as error:  # load_dataset wraps whatever a reader raises
        raise DataError(f"data set {name_or_path!r} cannot be read: {error.__cause__ or error}") from error


def _load_folder(folder: Path, subset: str | None) -> DatasetDict:
    """Reads a folder past the cache of datasets: a card with `configs` makes it key by the folder's name (5.2).

    What is read stays mapped when its file is gone, so it takes no memory of its own.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        return load_dataset(str(folder), subset, cache_dir=scratch)


def _label_column(table: Dataset) -> str | None:
    found = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    return "label" if "label" in found else found[0] if len(found) == 1 else None


def _text_column(table: Dataset) -> str | None:
    if "input_values" in table.column_names or any(isinstance(f, Image) for f in table.features.values()):
        return None
    found = [name for name, feature in table.features.items() if getattr(feature, "dtype", "") in _TEXT]
    column = next((name for name in ("text", "sentence") if name in found), found[0] if len(found) == 1 else None)
    if column is not None and len(found) > 1:
        warnings.warn(
            f"texts are of column {column!r}; {', '.join(name for name in found if name != column)} is not read. Where"
            " one text is in two columns, such as a question and its answer, join them in one first.",
            stacklevel=3,
        )
    return column


def _texts(table: Dataset, column: str, splits: np.ndarray) -> LabelledData:
    """Texts to predict the next token of; empty lines, which say nothing, are left out."""
    texts = _objects(table[column][:])
    rows = np.flatnonzero([bool(text and text.strip()) for text in texts])
    return LabelledData("text", texts[rows], None, [], splits[rows])


def _objects(texts: list[str]) -> np.ndarray:
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    return values


def _whole_column(table: Dataset, name: str, name_or_path: str) -> np.ndarray:
    values = table[name][:]
    if None in values:
        raise DataError(
            f"data set {name_or_path!r}: row {values.index(None)} has no {name}: fill it in, or drop the row."
        )
    return np.asarray(values)


def _windows(table: Dataset, name_or_path: str) -> np.ndarray:
    """All windows, [N, T, C], read a few at a time: never twice in memory."""
    column = table.select_columns("input_values").with_format("numpy")
    shape = np.shape(column[0]["input_values"])
    if len(shape) != 2:
        raise DataError(
            f"data set {name_or_path!r}: input_values has shape {(len(table), *shape)}; expected [N, T, C]."
        )
    expect_memory(4 * len(table) * shape[0] * shape[1], f"the {len(table):,} windows of data set {name_or_path!r}")
    windows = np.empty((len(table), *shape), dtype=np.float32)
    bad: list[int] = []
    for start in range(0, len(table), _ROWS_AT_ONCE):
        part = windows[start : start + _ROWS_AT_ONCE]
        try:
            part[:] = column[start : start + _ROWS_AT_ONCE]["input_values"]
        except ValueError as error:
            raise DataError(
                f"data set {name_or_path!r}: windows from row {start} on are not all of shape {shape} like the first "
                f"({error}). Cut them to one length."
            ) from error
        bad += (start + np.flatnonzero(~np.isfinite(part).all(axis=(1, 2)))).tolist()
    if bad:
        row = table[bad[0]]
        raise DataError(
            f"data set {name_or_path!r}: {len(bad)} of {len(windows)} windows hold NaN or infinity; the first is row "
            f"{bad[0]} (subject {row['subject']!r}, trial {row.get('trial', '?')!r}). Repair or drop them."
        )
    return windows
