"""A folder in Hub format: parquet and a card. It appears whole or not at all."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from data_prep.recordings import PrepError, Recording, Windowing


def to_dataset(recordings: Iterable[Recording], windowing: Windowing) -> Dataset:
    """All windows of the recordings as a table in memory; columns as in `Windowing.rows`.

    Raises:
        PrepError: There is not a single window.
    """
    rows = list(windowing.rows(recordings))
    if not rows:
        raise PrepError(f"no recording is as long as a window of {windowing.window_s} s: nothing to write.")
    features = Features({
        "input_values": Array2D((windowing.size, len(windowing.source.channels)), "float32"),
        "label": ClassLabel(names=windowing.activities),
        "subject": Value("string"),
        "trial": Value("string"),
        "start_s": Value("float64"),
    })  # fmt: skip
    return Dataset.from_list(rows, features=features)


def metadata(windowing: Windowing) -> dict[str, Any]:
    """What a model has to know about the windows; the `har` key of the card's YAML."""
    source = windowing.source
    return {
        "sampling_rate_hz": source.sampling_rate_hz,
        "channels": list(source.channels),
        "units": list(source.units),
        "window_s": windowing.size / source.sampling_rate_hz,
        "hop_s": windowing.hop / source.sampling_rate_hz,
    }


def write(recordings: Iterable[Recording], windowing: Windowing, out: Path) -> Dataset:
    """Writes windows and card to a new folder and returns the table.

    Raises:
        PrepError: The folder exists and is not empty, or there is nothing to write.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepError(f"{out} exists and is not empty: choose another folder, or remove it first.")
    partial = out.with_name(f".partial-{out.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        table = to_dataset(recordings, windowing)
        (partial / "data").mkdir(parents=True)
        table.to_parquet(partial / "data" / "train-00000-of-00001.parquet")
        (partial / "README.md").write_text(_card(windowing, table), encoding="utf-8")
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return table


def _card(windowing: Windowing, table: Dataset) -> str:
    source = windowing.source
    # No `configs` key: with one, datasets (5.2) caches by folder name alone and would serve a former folder's rows.
    front = {
        "pretty_name": source.title,
        "license": "other",
        "license_name": source.licence,
        "tags": ["human-activity-recognition", "wearable-sensors", "time-series"],
        "har": metadata(windowing),
    }
    channels = ", ".join(f"{name} ({unit})" for name, unit in zip(source.channels, source.units, strict=True))
    return "\n".join([
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {source.title}",
        "",
        source.about,
        "",
        f"- {len(table):,} windows of {windowing.size / source.sampling_rate_hz:g} s, a new one every "
        f"{windowing.hop / source.sampling_rate_hz:g} s, at {source.sampling_rate_hz:g} Hz; none crosses a recording",
        f"- channels: {channels}",
        f"- activities: {', '.join(windowing.activities)}",
        f"- subjects: {', '.join(sorted(set(table['subject'])))}",
        f"- recordings shorter than one window, left out: {sum(windowing.too_short.values())}",
        "",
        "Split by subject, never by window: windows overlap.",
        "",
        f"Terms of use: {source.licence}",
        "",
        f"Cite: {source.citation}",
        "",
    ])  # fmt: skip
