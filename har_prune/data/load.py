"""Reads a prepared data set whole into memory: sensor windows, or images of one size."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import DatasetCard

from har_prune.errors import DataError
from har_prune.loading import is_missing_folder

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class LabelledData:
    """Examples with labels.

    Args:
        kind: "sensor" or "image".
        values: Windows [N, T, C] float32 in physical units, or images [N, 3, H, W] uint8.
        labels: Class indices, [N].
        label_names: Class names by index.
        splits: The data set's own split of each row, [N], e.g. "train".
        subjects: Subject of each row, [N]; None for images.
        sensor: The card's facts about windows: sampling_rate_hz, channels, units; empty for images.
    """

    kind: Literal["sensor", "image"]
    values: np.ndarray
    labels: np.ndarray
    label_names: list[str]
    splits: np.ndarray
    subjects: np.ndarray | None = None
    sensor: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)


def load_data(name_or_path: str) -> LabelledData:
    """Loads a data set.

    Args:
        name_or_path: A folder, a Hub id, or "synthetic".

    Raises:
        DataError: It is missing, empty or not in a known format, or a window holds NaN or infinity.
    """
    tables, sensor = _synthetic() if name_or_path == SYNTHETIC else _load(name_or_path)
    for name, table in tables.items():
        if not len(table):
            raise DataError(f"data set {name_or_path!r}: split {name!r} is empty.")
    splits = np.concatenate([np.full(len(table), str(name)) for name, table in tables.items()])
    table = concatenate_datasets(list(tables.values()))
    label_column = _label_column(table, name_or_path)
    labels = np.asarray(table.with_format("numpy")[label_column][:], dtype=np.int64)
    names = list(table.features[label_column].names)
    image_column = next((name for name, feature in table.features.items() if isinstance(feature, Image)), None)
    if "input_values" in table.column_names and "subject" in table.column_names:
        windows = np.asarray(table.with_format("numpy")["input_values"][:], dtype=np.float32)
        _refuse_not_finite(windows, table, name_or_path)
        if "sampling_rate_hz" not in sensor:
            raise DataError(
                f"data set {name_or_path!r}: its card (README.md) does not state har.sampling_rate_hz. "
                "Prepare it with `python -m data_prep`."
            )
        return LabelledData("sensor", windows, labels, names, splits, np.asarray(table["subject"][:]), sensor)
    if image_column is not None:
        return LabelledData("image", _images(table, image_column, name_or_path), labels, names, splits)
    raise DataError(
        f"data set {name_or_path!r} has the columns {', '.join(table.column_names)}; expected input_values, label and "
        "subject (sensor windows, see `python -m data_prep`) or an image column and label."
    )


def _synthetic() -> tuple[DatasetDict, dict[str, Any]]:
    from data_prep import synthetic
    from data_prep.hub_folder import metadata, to_dataset
    from data_prep.recordings import Windowing

    windowing = Windowing(synthetic.SOURCE, synthetic.WINDOW_S, synthetic.OVERLAP)
    return DatasetDict({"train": to_dataset(synthetic.recordings(), windowing)}), metadata(windowing)


def _load(name_or_path: str) -> tuple[DatasetDict, dict[str, Any]]:
    folder = Path(name_or_path)
    if is_missing_folder(name_or_path):
        raise DataError(
            f"data folder {name_or_path} does not exist. Prepare it with `python -m data_prep`, or give the id of a "
            "data set on the Hub."
        )
    if folder.exists() and not any(path.is_file() for path in folder.rglob("*")):
        raise DataError(f"data folder {name_or_path} is empty. Prepare it with `python -m data_prep`.")
    try:
        tables = _load_folder(folder) if folder.exists() else load_dataset(name_or_path)
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise DataError(
            f"data set {name_or_path!r} is neither a folder here nor reachable on the Hub ({error}). Sensor data are "
            "prepared with `python -m data_prep`."
        ) from error
    except Exception as error:  # load_dataset wraps whatever a reader raises
        raise DataError(f"data set {name_or_path!r} cannot be read: {error.__cause__ or error}") from error
    return tables, _sensor_facts(name_or_path)


def _load_folder(folder: Path) -> DatasetDict:
    """Reads a folder past the cache of datasets: a card with `configs` makes it key by the folder's name (5.2)."""
    with TemporaryDirectory() as scratch:
        return load_dataset(str(folder), cache_dir=scratch, keep_in_memory=True)


def _sensor_facts(name_or_path: str) -> dict[str, Any]:
    card = Path(name_or_path, "README.md")
    if Path(name_or_path).is_dir() and not card.exists():
        return {}
    try:
        return DatasetCard.load(card if card.exists() else name_or_path).data.to_dict().get("har") or {}
    except Exception as error:  # a card with broken YAML, or none on the Hub
        raise DataError(f"the card of data set {name_or_path!r} cannot be read: {error}") from error


def _label_column(table: Dataset, name_or_path: str) -> str:
    found = [name for name, feature in table.features.items() if isinstance(feature, ClassLabel)]
    if len(found) == 1 or "label" in found:
        return "label" if "label" in found else found[0]
    raise DataError(
        f"data set {name_or_path!r}: expected one column of class labels called 'label' with names; its columns are "
        f"{', '.join(table.column_names)}."
    )


def _refuse_not_finite(windows: np.ndarray, table: Dataset, name_or_path: str) -> None:
    if windows.ndim != 3:
        raise DataError(f"data set {name_or_path!r}: input_values has shape {windows.shape}; expected [N, T, C].")
    bad = np.flatnonzero(~np.isfinite(windows).all(axis=(1, 2)))
    if len(bad):
        row = table[int(bad[0])]
        raise DataError(
            f"data set {name_or_path!r}: {len(bad)} of {len(windows)} windows hold NaN or infinity; the first is row "
            f"{bad[0]} (subject {row['subject']!r}, trial {row.get('trial', '?')!r}). Repair or drop them."
        )


def _images(table: Dataset, column: str, name_or_path: str) -> np.ndarray:
    images = [np.asarray(row[column].convert("RGB")) for row in table.select_columns([column])]
    sizes = {image.shape for image in images}
    if len(sizes) > 1:
        raise DataError(
            f"data set {name_or_path!r} has images of {len(sizes)} sizes, e.g. {sorted(sizes)[:2]}; expected one. "
            "Resize them first."
        )
    return np.stack(images).transpose(0, 3, 1, 2).copy()
