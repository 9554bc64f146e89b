"""A folder in Hub format: parquet shards and a card. It appears whole or not at all."""

import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from datasets import Dataset, Features
from filelock import FileLock, Timeout
from huggingface_hub import DatasetCard

from data_prep.errors import PrepError
from data_prep.plausibility import doubts, refuse_implausible
from data_prep.recordings import Reader, Recording, Windowing
from data_prep.window_tables import Written, cut_all, features_of

REPAIRED = "time stamps repaired, or labels or channels without samples"
_AT_ONCE_S = 1.0  # clocks of two recordings of one device may overlap by less
_SHARD_BYTES = 256 * 2**20  # of windows in memory; a parquet file is smaller


def to_dataset(recordings: Iterable[Recording], windowing: Windowing) -> Dataset:
    """All windows of the recordings as a table in memory; for data that need no folder.

    Raises:
        PrepError: There is not a single window.
    """
    rows = [{k: v for k, v in row.items() if k != "split"} for row in windowing.rows(recordings)]
    if not rows:
        raise PrepError(_nothing(windowing, Written()))
    return Dataset.from_list(rows, features=features_of(windowing))


def metadata(windowing: Windowing) -> dict[str, Any]:
    """What a model has to know about the windows; the `har` key of the card's YAML."""
    info = windowing.info
    return {
        "sampling_rate_hz": windowing.rate,
        "channels": list(info.channels),
        "units": list(info.units),
        "window_s": windowing.size / windowing.rate,
        "hop_s": windowing.hop / windowing.rate,
    }


@contextmanager
def new_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a folder to write into; it becomes `out` when the block ends, and vanishes when it raises.

    Raises:
        PrepError: `out` exists and is not empty, and nobody said to overwrite it, or it is no data set of ours; or
            another process is writing it.
    """
    _refuse_to_replace(out, overwrite)
    out = out.resolve()  # "." has no name
    partial_folder, former = (out.with_name(f".{kind}-{out.name}") for kind in ("partial", "former"))
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        shutil.rmtree(partial_folder, ignore_errors=True)  # of a run that was killed
        partial_folder.mkdir()
        try:
            yield partial_folder
            _refuse_to_replace(out, overwrite)  # what has come meanwhile
            with _no_signals():
                if out.exists():
                    shutil.rmtree(former, ignore_errors=True)  # of a run that was killed here
                    out.rename(former)
                    partial_folder.rename(out)
                    shutil.rmtree(former)
                else:
                    partial_folder.rename(out)
        finally:
            shutil.rmtree(partial_folder, ignore_errors=True)


def _refuse_to_replace(out: Path, overwrite: bool) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not overwrite:
            raise PrepError(f"{out} exists and is not empty: choose another folder, or give --overwrite.")
        if not _is_prepared(out):
            raise PrepError(
                f"{out} holds something else than a data set this tool wrote (no README.md with a key har): it is not "
                "overwritten. Choose another folder, or remove it yourself."
            )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = FileLock(out.with_name(f".lock-{out.name}"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise PrepError(f"another process is writing {out}: wait for it, or choose another folder.") from None
    except NotImplementedError:  # a file system without locks
        pass
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file, and filelock does there what is left
            Path(lock.lock_file).unlink()
        lock.release()


@contextmanager
def _no_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM do nothing inside: between two renames there is no data set."""
    if current_thread() is not main_thread():  # which alone gets signals
        yield
        return
    former = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _is_prepared(folder: Path) -> bool:
    try:
        return "har" in DatasetCard.load(folder / "README.md").data.to_dict()
    except Exception:  # none, no text, or broken YAML
        return False


def write(reader: Reader, parts: Iterable[Any], windowing: Windowing, folder: Path, num_proc: int = 1) -> Written:
    """Writes windows and card into a new folder; in memory is what each process reads at once, and a part of a shard.

    Args:
        reader: How to read a part.
        parts: As `reader.parts` gave them.
        windowing: How to cut them.
        folder: Where to write.
        num_proc: Processes that read.

    Raises:
        PrepError: A file is not what it should be, there is not a single window, or the numbers are in another unit.
    """
    total = Written()
    with _Shards(folder / "data", features_of(windowing)) as shards:
        for split, table in cut_all(reader.read, parts, windowing, total, num_proc, folder):
            shards.add(split, table)
    if not total.windows:
        raise PrepError(_nothing(windowing, total))
    refuse_implausible(windowing.info, total.lengths)
    total.doubts = doubts(windowing.info, total.lengths)
    _refuse_at_once(total.spans)
    (folder / "README.md").write_text(_card(windowing, total), encoding="utf-8")
    return total


def _refuse_at_once(spans: list[tuple[str, str, float, float]]) -> None:
    """Nobody is recorded twice at the same time, unless by two devices.

    Raises:
        PrepError: Somebody was.
    """
    last: dict[str, tuple[str, float]] = {}
    together: dict[str, float] = {}
    for subject, trial, start, end in sorted(spans, key=lambda span: span[2]):
        other, until = last.get(subject, (trial, start))
        if other != trial:
            together[subject] = together.get(subject, 0.0) + max(0.0, min(end, until) - start)
        if together.get(subject, 0.0) > _AT_ONCE_S:
            raise PrepError(
                f"{other} and {trial} recorded {subject} at the same time: two devices in one folder? For a network "
                "of one place on the body make a folder of each place; for one of both name the second device's file "
                "under joined in the map. To have them one after the other, write at_once: keep there."
            )
        if end > until or other == trial:
            last[subject] = trial, max(end, until)


def _nothing(windowing: Windowing, written: Written) -> str:
    other_rate = written.other_rate.total()
    said = [f"no recording is as long as a window of {windowing.window_s} s: nothing to write."]
    said += [f"{other_rate} were left out: not at {windowing.info.sampling_rate_hz:g} Hz."] if other_rate else []
    said += [f"{REPAIRED}: {_counts(+written.repaired)}."] if +written.repaired else []
    return " ".join(said)


def alike(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Words that differ in case, blanks, punctuation or leading zeros alone: perhaps one subject, or one activity."""
    found: dict[str, str] = {}
    for word in sorted(words):
        key = re.sub(r"[\W_]+", "", word).casefold().lstrip("0")
        if key and found.setdefault(key, word) != word:
            yield found[key], word


class _Shards:
    """Parquet files of one folder, a new one when the newest is large enough."""

    def __init__(self, folder: Path, features: Features):
        self.folder, self.schema = folder, features.arrow_schema
        self._open: dict[str, tuple[pq.ParquetWriter, Path, int]] = {}
        self._done: dict[str, list[Path]] = {}

    def __enter__(self) -> "_Shards":
        self.folder.mkdir(parents=True)
        return self

    def add(self, split: str, table: pa.Table) -> None:
        if split not in self._open:
            path = self.folder / f"{split}-{len(self._done.setdefault(split, []))}"
            self._done[split].append(path)
            self._open[split] = pq.ParquetWriter(path, self.schema), path, 0
        writer, path, size = self._open[split]
        writer.write_table(table.cast(self.schema))
        self._open[split] = writer, path, size + table.nbytes
        if size + table.nbytes > _SHARD_BYTES:
            self._open.pop(split)[0].close()

    def __exit__(self, *error: object) -> None:
        for writer, _, _ in self._open.values():
            writer.close()
        for split, paths in self._done.items():
            for number, path in enumerate(paths):
                path.rename(self.folder / f"{split}-{number:05d}-of-{len(paths):05d}.parquet")


def _card(windowing: Windowing, written: Written) -> str:
    info = windowing.info
    # No `configs` key: with one, datasets (5.2) caches by folder name alone and would serve a former folder's rows.
    front = {
        "pretty_name": info.title,
        "license": "other",
        "license_name": info.license,
        "tags": ["human-activity-recognition", "wearable-sensors", "time-series"],
        "citation": info.citation,
        "har": metadata(windowing),
    }
    channels = ", ".join(f"{name} ({unit})" for name, unit in zip(info.channels, info.units, strict=True))
    splits = ", ".join(f"{count:,} {split}" for split, count in written.windows.items())
    return "\n".join([
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {info.title}",
        "",
        info.about,
        "",
        f"- {splits} windows of {windowing.size / windowing.rate:g} s, a new one every "
        f"{windowing.hop / windowing.rate:g} s, at {windowing.rate:g} Hz"
        + ("" if windowing.rate == info.sampling_rate_hz else f" (resampled from {info.sampling_rate_hz:g} Hz)")
        + "; none crosses a recording or a change of activity",
        f"- columns: input_values [{windowing.size}, {len(info.channels)}], label, subject, trial (the continuous "
        "recording it was cut from), start_s (seconds into it)"
        + (f", worn (false where the device lay still: {written.not_worn:,} windows)" if windowing.worn else ""),
        f"- channels: {channels}",
        f"- windows by activity: {_counts(written.activities, windowing.activities)}",
        f"- windows by subject: {_counts(written.subjects)}",
        f"- recordings shorter than one window, left out: {_counts(+written.too_short)}",
        f"- recordings at another rate by their time stamps, left out: {_counts(written.other_rate)}",
        *([f"- {REPAIRED}: {_counts(+written.repaired)}"] if +written.repaired else []),
        f"- gaps of up to {windowing.max_gap_s:g} s were filled on a straight line; cuts at longer: {written.gaps}"
        + "".join(f"; {share:.1%} of {channel} is filled" for channel, share in written.filled_share.items()),
        "",
        "Split by subject, never by window: windows overlap.",
        "",
        f"From: {info.url}",
        "",
        f"Terms of use: {info.license}",
        "",
        f"Cite: {info.citation}",
        "",
    ])  # fmt: skip


def _counts(counts: Counter, order: Iterable[str] | None = None) -> str:
    return ", ".join(f"{name} {counts[name]:,}" for name in order or sorted(counts)) or "none"
