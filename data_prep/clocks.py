"""Time stamps as devices write them: in a local zone, in packets, and sometimes backwards."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data_prep.column_map import TimeColumn
from data_prep.errors import PrepError
from data_prep.tables import mixed_offset

PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # to divide by: 1e-3 is none of the floating point numbers
_OFFSETS = "has an offset already: leave zone out of the map."
_LATE_S = 1.0  # of samples in a row that go back: more, and a clock was set
_LONGEST_PACKET_S = 61.0  # stamps cut to the minute: what is longer has no clock, a date perhaps
_LONGEST_SPREAD = 1.5  # steps a sample: what comes later than that after a packet was lost, not late


def seconds_of(path: Path, stamps: pd.Series, time: TimeColumn, numbers: pd.Series | None) -> pd.Series:
    """Seconds since 1970, or since whatever numbers count from.

    Args:
        path: The file, for messages.
        stamps: The column; its index is the line.
        time: What it is.
        numbers: The column as numbers, of other units than iso.

    Raises:
        PrepError: A stamp is missing or no time, or its local time is ambiguous.
    """
    if numbers is not None:
        missing = stamps.index[numbers.isna()]
        if len(missing):
            raise PrepError(f"{path}, line {missing[0]}: the time stamp is missing.")
        return numbers / PER_SECOND[time.unit]
    times = stamps
    if not pd.api.types.is_datetime64_any_dtype(stamps):
        try:
            times = pd.to_datetime(stamps, format=time.format or "ISO8601", utc=time.zone is None, errors="coerce")
        except ValueError as error:  # some have an offset
            raise PrepError(f"{path}, column {time.column!r}: {_OFFSETS}") from error
    wrong = stamps.index[times.isna()]
    if len(wrong):
        raise PrepError(
            f"{path}, line {wrong[0]}, column {time.column!r}: {stamps[wrong[0]]!r} is no "
            f"{f'time like {time.format}' if time.format else 'ISO 8601 time'}."
        )
    if times is not stamps and time.zone is None and (line := mixed_offset(stamps)) is not None:
        raise PrepError(
            f"{path}, line {line}, column {time.column!r}: {stamps[line]!r} and {stamps.iloc[0]!r}: one has an offset "
            "and one has none, so they may be hours apart. Give all of them one."
        )
    if not pd.api.types.is_datetime64_any_dtype(times) or (time.zone is not None and times.dt.tz is not None):
        raise PrepError(f"{path}, column {time.column!r}: {stamps.iloc[0]!r} {_OFFSETS}")
    if times.dt.tz is None:
        local = times.dt.tz_localize(time.zone or "UTC", ambiguous="NaT", nonexistent="NaT")
        wrong = stamps.index[local.isna()]
        if len(wrong):
            raise PrepError(
                f"{path}, line {wrong[0]}: {stamps[wrong[0]]} is twice or never in {time.zone}, where the clocks "
                "changed. Give stamps with an offset, or leave that hour out."
            )
        times = local
    return (times - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def is_absolute(stamps: pd.Series, time: TimeColumn) -> bool:
    """Whether stamps say where on Earth they were taken: by an offset, a zone, or as a number since 1970."""
    if time.unit != "iso" or time.zone is not None or not len(stamps):
        return True
    first = stamps.iloc[:1]
    if not pd.api.types.is_datetime64_any_dtype(first):
        first = pd.to_datetime(first, format=time.format or "ISO8601", errors="coerce")
    return getattr(first.dtype, "tz", None) is not None


def repaired(
    path: Path, tables: Iterable[pd.DataFrame], time: TimeColumn, sampling_rate_hz: float, counted: Counter
) -> Iterator[pd.DataFrame]:
    """Samples whose stamps go back or repeat dealt with as the map says; where it says nothing they stay.

    Args:
        path: The file, for messages.
        tables: Pieces of a file with columns subject, label, time and the channels 0, 1, ...
        time: What to do.
        sampling_rate_hz: Of the samples.
        counted: What was done to how many samples is added here.

    Raises:
        PrepError: Stamps repeat, and nothing is said about that; or more than a second goes back.
    """
    held: pd.DataFrame | None = None  # the last stamp of a piece may go on in the next
    newest: dict[str, float] = {}
    in_a_row = 0
    for piece in tables:
        table = piece if held is None else pd.concat([held, piece])
        if time.backward == "drop":
            before = table["subject"].map(newest).fillna(-np.inf).astype(float)
            highest = table.groupby("subject")["time"].cummax().clip(lower=before)
            late = table["time"] < highest
            in_a_row *= bool(late.any())
            for line, back in late.items() if late.any() else ():
                in_a_row = in_a_row + 1 if back else 0
                if in_a_row > max(2.0, _LATE_S * sampling_rate_hz):
                    raise PrepError(
                        f"{path}, line {line}: {in_a_row} samples in a row are earlier than one before: they did not "
                        "come late, a clock was set, or another recording begins. Split the file there."
                    )
            counted["dropped, went back"] += int(late.sum())
            table = table[~late]
        if time.repeats == "refuse" or not len(table):
            _refuse_repeats(path, table)
            newest |= table.groupby("subject")["time"].last().to_dict() if len(table) else {}
            yield table
            continue
        last = (table["time"] != table["time"].iloc[-1]) | (table["subject"] != table["subject"].iloc[-1])
        stop = int(np.flatnonzero(last.to_numpy())[-1]) + 1 if last.any() else 0
        newest |= table.groupby("subject")["time"].last().to_dict()
        held = table.iloc[stop:]
        if stop:
            yield _without_repeats(path, table.iloc[:stop], time, sampling_rate_hz, held, counted)
    if held is not None and len(held):
        yield _without_repeats(path, held, time, sampling_rate_hz, None, counted)


def _refuse_repeats(path: Path, table: pd.DataFrame) -> None:
    same = (table["time"] == table["time"].shift()) & (table["subject"] == table["subject"].shift())
    if same.any():
        line, stamp = same.idxmax(), table["time"][same].iloc[0]
        raise PrepError(
            f"{path}, line {line}: the time stamp repeats ({stamp} s, then {stamp} s). Remove duplicates, or write "
            "under time in the map repeats: first, mean, or spread where samples came as a packet."
        )


def _pulled_back(stamps: np.ndarray, then: np.ndarray, lasts: np.ndarray) -> np.ndarray:
    """Stamps of packets, those that came together with the next one as much before it as they last.

    Args:
        stamps: When each came, [P] in seconds.
        then: When the next one of the same subject came; inf = there is none.
        lasts: Seconds that the samples of each last.
    """
    earlier = stamps.copy()
    for place in reversed(range(1, len(stamps))):
        following = earlier[place + 1] if place + 1 < len(stamps) and then[place] < np.inf else then[place]
        if then[place - 1] < np.inf and following - earlier[place] < lasts[place] / _LONGEST_SPREAD:
            earlier[place] = following - lasts[place]
    for place in np.flatnonzero(earlier < stamps).tolist():  # not into the one before
        soonest = earlier[place - 1] + lasts[place - 1] / _LONGEST_SPREAD
        earlier[place] = max(earlier[place], min(stamps[place], soonest))
    return earlier


def _without_repeats(
    path: Path, table: pd.DataFrame, time: TimeColumn, rate: float, following: pd.DataFrame | None, counted: Counter
) -> pd.DataFrame:
    begins = (table["time"] != table["time"].shift()) | (table["subject"] != table["subject"].shift())
    packet = begins.cumsum()
    more = int((~begins).sum())
    if not more:
        return table
    if time.repeats == "first":
        counted["dropped, repeated a stamp"] += more
        return table[begins]
    if time.repeats == "mean":
        counted["averaged, repeated a stamp"] += more
        channels = [name for name in table if isinstance(name, int)]
        first = table[begins].copy()
        first[channels] = table[channels].groupby(packet).mean().to_numpy()
        return first
    counted["spread, came in a packet"] += more
    stamps, subjects = table["time"][begins].to_numpy(), table["subject"][begins].to_numpy()
    then = np.append(stamps[1:], np.inf if following is None else following["time"].iloc[0])
    other = np.append(subjects[1:], "" if following is None else following["subject"].iloc[0])
    sizes = packet.value_counts(sort=False).to_numpy()
    if (longest := int(sizes.max())) > _LONGEST_PACKET_S * rate:
        line = table.index[begins][int(sizes.argmax())]
        raise PrepError(
            f"{path}, line {line}: {longest:,} samples have one time stamp, and no packet is that long: is column "
            f"{time.column!r} a date? Where a time of day lies beside it, join the two into one column."
        )
    earlier = _pulled_back(stamps, np.where(other == subjects, then, np.inf), sizes / rate)
    counted["moved back, their packet came late"] += int(sizes[earlier < stamps].sum())
    table = table.assign(time=np.repeat(earlier, sizes))
    stamps, then = earlier, np.append(earlier[1:], then[-1:])
    step = np.where((other == subjects) & (then > stamps), (then - stamps) / sizes, np.inf)
    step = np.where(step <= _LONGEST_SPREAD / rate, step, 1 / rate)
    within = table.groupby(packet).cumcount().to_numpy()
    return table.assign(time=table["time"] + within * np.repeat(step, sizes))
