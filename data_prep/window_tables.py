"""Windows as Arrow tables: cut while a file is read, by this process or by several."""

import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import pyarrow as pa
from datasets import Array2D, ClassLabel, Dataset, Features, Value

from data_prep.errors import PrepError
from data_prep.plausibility import lengths, triads
from data_prep.recordings import DatasetInfo, Recording, Windowing

_ROWS_AT_ONCE = 512


@dataclass
class Written:
    """What a folder holds, for the card and for the person who made it.

    Args:
        windows: Number of windows by split.
        subjects: Windows of each subject.
        activities: Windows of each activity.
        too_short: Recordings shorter than a window, by activity; left out.
        gaps: Cuts made where a sensor gave nothing for too long.
        other_rate: Recordings at another rate than the data set, by subject; left out.
        repaired: Samples whose time stamps were repaired, and recordings that lack a channel, by what it was.
        samples, filled: Samples, and how many of them were filled in each channel, as `Windowing` has them.
        spans: When recordings were made, as `Windowing` has it.
        not_worn: Windows in which the device lay still; always 0 where nobody looked.
        doubts: What may be wrong with the numbers, in words.
        lengths: How long accelerations and rates of each recording are, as `plausibility` counts them.
    """

    windows: Counter = field(default_factory=Counter)
    subjects: Counter = field(default_factory=Counter)
    activities: Counter = field(default_factory=Counter)
    too_short: Counter = field(default_factory=Counter)
    gaps: int = 0
    other_rate: Counter = field(default_factory=Counter)
    repaired: Counter = field(default_factory=Counter)
    samples: int = 0
    filled: Counter = field(default_factory=Counter)
    spans: list[tuple[str, str, float, float]] = field(default_factory=list)
    not_worn: int = 0
    doubts: list[str] = field(default_factory=list)
    lengths: Counter = field(default_factory=Counter)

    @property
    def filled_share(self) -> dict[str, float]:
        """Share of the samples that were filled on a straight line, by channel; of those that lacked some."""
        return {channel: count / self.samples for channel, count in self.filled.items() if count}

    def add(self, other: "Written") -> None:
        """Counts what another part holds as well."""
        for name, counts in vars(other).items():
            setattr(self, name, getattr(self, name) + counts)


def features_of(windowing: Windowing) -> Features:
    """Columns of the table."""
    return Features({
        "input_values": Array2D((windowing.size, len(windowing.info.channels)), "float32"),
        "label": ClassLabel(names=windowing.activities),
        "subject": Value("string"),
        "trial": Value("string"),
        "start_s": Value("float64"),
        **({"worn": Value("bool")} if windowing.worn else {}),
    })  # fmt: skip


_Read = Callable[[Any, DatasetInfo], Iterator[Recording]]
_Tables = Iterator[tuple[str, pa.Table]]  # windows, each table with the split it belongs to


def _cut(part: Any, read: _Read, windowing: Windowing, written: Written) -> _Tables:
    """The windows of one part, handed on while it is read; counts them in `written`."""
    own = Windowing(windowing.info, windowing.window_s, windowing.overlap, windowing.drop, windowing.rate_hz,
                    windowing.max_gap_s, windowing.worn)  # fmt: skip
    features, groups = features_of(windowing), triads(windowing.info)
    waiting: dict[str, list[dict]] = {}

    def table(split: str) -> pa.Table:
        return Dataset.from_list(waiting.pop(split), features=features).with_format("arrow")[:]

    for row in own.rows(read(part, windowing.info)):
        split = row.pop("split")
        written.windows[split] += 1
        written.subjects[row["subject"]] += 1
        written.activities[own.activities[row["label"]]] += 1
        written.not_worn += not row.get("worn", True)
        of = (row["subject"], row["trial"])
        written.lengths.update((of, *one) for one in lengths(row["input_values"], groups))
        waiting.setdefault(split, []).append(row)
        if len(waiting[split]) == _ROWS_AT_ONCE:
            yield split, table(split)
    for split in list(waiting):
        yield split, table(split)
    written.too_short.update(own.too_short)
    written.gaps += own.gaps
    written.other_rate.update(own.other_rate)
    written.repaired.update(own.repaired)
    written.samples += own.samples
    written.filled.update(own.filled)
    written.spans += own.spans


def cut_all(
    read: _Read, parts: Iterable[Any], windowing: Windowing, written: Written, num_proc: int, scratch: Path
) -> _Tables:
    if num_proc == 1:
        for part in parts:
            yield from _cut(part, read, windowing, written)
        return
    cut = partial(_cut_to_files, read=read, windowing=windowing)

    def finished(future: Future) -> _Tables:
        try:
            handed_over, counts = future.result()
        except BrokenProcessPool as error:
            raise PrepError("a reading process was killed; where memory ran out, lower --num-proc.") from error
        written.add(counts)
        yield from _handed_over(handed_over)

    alive, held = Pipe(duplex=False)
    with TemporaryDirectory(dir=scratch) as folder, ProcessPoolExecutor(num_proc, None, _watch, (alive, held)) as pool:
        waiting: list[Future] = []
        try:
            for number, part in enumerate(parts):
                waiting.append(pool.submit(cut, part, Path(folder, str(number))))
                if len(waiting) > num_proc:  # so that results do not pile up
                    yield from finished(waiting.pop(0))
            for future in waiting:
                yield from finished(future)
        except BaseException:
            held.close()  # and they end
            pool.shutdown(cancel_futures=True)  # and waits: they write into the folder
            raise


def _watch(alive: Connection, held: Connection) -> None:
    """Ends a reading process when nobody holds the other end of the pipe: the parent stops, or was killed.

    Ctrl-C reaches every process of a terminal; here the parent decides.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    held.close()

    def watch() -> None:
        alive.poll(None)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _cut_to_files(part: Any, folder: Path, read: _Read, windowing: Windowing) -> tuple[Path, Written]:
    """What another process hands over: not the windows, which may be many, but a folder with a file for each split."""
    folder.mkdir()
    written, schema = Written(), features_of(windowing).arrow_schema
    with ExitStack() as files:
        writers: dict[str, pa.RecordBatchFileWriter] = {}
        for split, table in _cut(part, read, windowing, written):
            if split not in writers:
                writers[split] = files.enter_context(pa.ipc.new_file(folder / split, schema))
            writers[split].write_table(table.cast(schema))
    return folder, written


def _handed_over(folder: Path) -> _Tables:
    for path in sorted(folder.iterdir()):
        with pa.memory_map(str(path)) as memory, pa.ipc.open_file(memory) as batches:
            for number in range(batches.num_record_batches):
                yield path.name, pa.Table.from_batches([batches.get_batch(number)])
    shutil.rmtree(folder)
