"""A file of one's own and its column map: CSV, Parquet or of a device; its pieces, and what its columns hold."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.clocks import seconds_of
from data_prep.column_map import ChannelColumn, ColumnMap, TimeColumn
from data_prep.device_files import SUFFIXES, read_device
from data_prep.errors import PrepError
from data_prep.signals import UNITS

KINDS = (".csv", ".csv.gz", ".parquet", *SUFFIXES)
MISSING = ["", "nan", "NaN", "NAN", "NA", "null"]  # numbers only: there may be an activity called null
NO_WORD = ["", "nan", "NaN", "NA", "<NA>", "NaT", "None"]  # what pandas and Python write where there is no word
_ROWS_AT_ONCE = 50_000


def name_of(path: Path) -> str:
    kind = next(kind for kind in KINDS if path.name.lower().endswith(kind))
    return path.name[: -len(kind)]


def file_beside(path: Path, name: str) -> Path:
    """A file that goes with a recording: beside it, or where the name says from there."""
    return Path(os.path.normpath(path.parent / name.replace("{name}", name_of(path))))


def is_parquet(path: Path) -> bool:
    return path.name.lower().endswith(".parquet")


def is_device(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def check_columns(path: Path, columns: ColumnMap) -> None:
    if is_device(path):
        known = list(read_device(path).columns)
        absent = [name for name in columns.columns if name not in known]
        if absent:
            raise PrepError(f"{path} has no column {absent[0]!r} (columns: {', '.join(known)}).")
        return
    with naming(path):
        header = (
            pq.read_schema(path).names if is_parquet(path)
            else list(pd.read_csv(path, nrows=0, **layout_of(columns)).columns)
        )  # fmt: skip
    missing = [name for name in columns.columns if name not in header]
    extra = [name for name in header if name not in columns.columns and name not in columns.ignore]
    if not missing and not extra:
        return
    mark = max(";\t|,", key=header[0].count)
    if len(header) == 1 and mark in header[0]:
        raise PrepError(
            f"{path}: fields seem to be separated by {json.dumps(mark)}, not {json.dumps(columns.delimiter)}: write "
            f"delimiter: {json.dumps(mark)} in the column map."
        )
    raise PrepError(
        f"{path}: {'missing columns: ' + ', '.join(missing) + '. ' if missing else ''}"
        f"{'columns nobody mentioned: ' + ', '.join(extra) + ' (name them under ignore). ' if extra else ''}"
        f"The header (line {columns.skip_rows + 1}) is {', '.join(header)}."
    )


def layout_of(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: how the text is laid out."""
    # With index_col=False a row with more fields than the header is an error or a warning, never a shift.
    return {
        "sep": columns.delimiter, "decimal": columns.decimal, "skiprows": columns.skip_rows, "index_col": False,
        "encoding": columns.encoding, "skip_blank_lines": False, "skipinitialspace": True,
    }  # fmt: skip


def _types(columns: ColumnMap) -> dict[str, Any]:
    """Options of pandas: which columns are text, and what is a missing number."""
    text = [name for name in (columns.label.column, columns.subject.column) if name]
    if columns.time and columns.time.unit == "iso":
        text.append(columns.time.column)
    numbers = {name: MISSING for name in columns.columns if name not in text}
    return {"dtype": dict.fromkeys(text, str), "keep_default_na": False, "na_values": numbers}


def read_pieces(path: Path, columns: ColumnMap, wanted: list[str] | None = None) -> Iterator[pd.DataFrame]:
    """The file a piece at a time: it may be larger than memory. The index is the line in the file, or the row."""
    with naming(path):
        if is_device(path):
            yield read_device(path)[wanted or columns.columns]
        elif is_parquet(path):
            yield from _of_parquet(path, wanted or columns.columns)
        else:
            yield from _of_csv(path, columns, wanted)


def _of_parquet(path: Path, wanted: list[str]) -> Iterator[pd.DataFrame]:
    first = 1
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=wanted):
            table = batch.to_pandas(ignore_metadata=True)  # an index of pandas is a column as any other
            table.index = pd.RangeIndex(first, first + len(table))
            first += len(table)
            yield table


def _of_csv(path: Path, columns: ColumnMap, wanted: list[str] | None) -> Iterator[pd.DataFrame]:
    options = layout_of(columns) | _types(columns)
    with pd.read_csv(path, chunksize=_ROWS_AT_ONCE, usecols=wanted, **options) as pieces:
        while True:
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                piece = next(pieces, None)
            if piece is None:
                return
            piece.index += columns.skip_rows + 2
            yield piece


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Says which file it is that pandas cannot read."""
    try:
        yield
    except PrepError:
        raise
    except pd.errors.ParserWarning as error:
        raise PrepError(f"{path}: the first line below the header has more fields than that has names.") from error
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:  # also encodings, and a .gz cut in the middle
        kind = "Parquet" if is_parquet(path) else "CSV"
        raise PrepError(f"{path} cannot be read as {kind}: {str(error).strip()}") from error


def channels_of(path: Path, table: pd.DataFrame, channels: dict[str, ChannelColumn], decimal: str) -> list[pd.Series]:
    return [as_numbers(path, table, one.column, decimal) * UNITS[one.unit][1] for one in channels.values()]


def times_of(path: Path, table: pd.DataFrame, time: TimeColumn | None, columns: ColumnMap) -> pd.Series:
    if time is None:
        first = 1 if is_parquet(path) or is_device(path) else columns.skip_rows + 2
        return pd.Series((table.index - first) / columns.sampling_rate_hz, table.index)
    if time.unit != "iso" and pd.api.types.is_datetime64_any_dtype(table[time.column]):
        raise PrepError(f"{path}, column {time.column!r} holds dates: write unit: iso in the map.")
    numbers = None if time.unit == "iso" else as_numbers(path, table, time.column, columns.decimal)
    return seconds_of(path, table[time.column], time, numbers)


def as_words(path: Path, table: pd.DataFrame, column: str, meaning: str) -> pd.Series:
    """A column of text, which must say something in every row."""
    words = as_text(table[column])
    empty = words.index[words == ""]
    if len(empty):
        raise PrepError(f"{path}, line {empty[0]}: no {meaning} in column {column!r} (empty, nan, NA, None).")
    return words


def as_text(values: pd.Series) -> pd.Series:
    """As text, "" where there is none; 1.0 is 1, which is what pandas makes of 1 where some are missing."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    words = values.astype("string").str.strip().str.normalize("NFC")  # macOS takes letters and accents apart
    return words.str.replace(r"^(\d+)\.0$", r"\1", regex=True).fillna("").replace(NO_WORD, "").astype(object)


def as_numbers(path: Path, table: pd.DataFrame, column: str, decimal: str) -> pd.Series:
    """A column as numbers; what is empty or "nan" is missing."""
    given = table[column]
    if decimal != "." and not pd.api.types.is_numeric_dtype(
        given
    ):  # pandas leaves a column as text for one that is no number
        given = given.replace(decimal, ".", regex=True)
    numbers = pd.to_numeric(given, errors="coerce").astype(np.float64)
    wrong = table.index[(numbers.isna() & given.notna()) | np.isinf(numbers)]
    if len(wrong):
        value = str(table[column][wrong[0]])
        hint = " Write decimal: ',' in the column map?" if decimal == "." and "," in value else ""
        raise PrepError(f"{path}, line {wrong[0]}, column {column!r}: {value!r} is no finite number.{hint}")
    return numbers
