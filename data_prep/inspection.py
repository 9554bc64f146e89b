"""What a file of recordings holds, and a first column map for it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from data_prep.clocks import PER_SECOND
from data_prep.device_files import SUFFIXES, read_device
from data_prep.errors import PrepError
from data_prep.mapped_files import MISSING, NO_WORD
from data_prep.plausibility import CALM, GRAVITY
from data_prep.signals import STANDARD_GRAVITY, UNITS
from data_prep.tables import measured_rate_hz

_ROWS = 200_000  # looked at
_TIME = re.compile(r"^(t|ts|time|date|datetime|timestamp|epoch|seconds?_elapsed)", re.IGNORECASE)
_LABEL = re.compile("label|activit|class|annotation", re.IGNORECASE)
_SUBJECT = re.compile(
    r"(subject|user|person|participant)s?([ _.\-(#]*(id|name|nr|no|number|code|index|\d+)\)?)?$", re.IGNORECASE
)
_AXIS = re.compile(
    r"^(?P<kind>acc|accel|accelerometer|acceleration|a|g|gyr|gyro|gyroscope|rotation|w)?[ _.\-(]*"
    r"(?P<axis>[xyz])\b(?P<rest>.*)$",
    re.IGNORECASE,
)
_NAMED_UNITS = (  # of a channel, behind its axis: acc_x (g), gyro_z [deg/s]
    ("deg/s", re.compile(r"deg|dps|°", re.IGNORECASE)),
    ("rad/s", re.compile(r"rad", re.IGNORECASE)),
    ("mg", re.compile(r"\bmg\b", re.IGNORECASE)),
    ("m/s^2", re.compile(r"m/s|m s|ms-2", re.IGNORECASE)),
    ("g", re.compile(r"\bg\b", re.IGNORECASE)),
)
_GYRO = ("g", "gyr", "gyro", "gyroscope", "rotation", "w")
_FASTEST = 35.0  # rad/s, what gyroscopes measure
_STILL_G, _STILL_SPAN_S = 0.013, 60.0  # standard deviation below which nobody wears it (van Hees et al. 2013)


@dataclass(frozen=True)
class Inspection:
    """What is known of a file.

    Args:
        facts: In words, in order.
        warnings: What looks wrong.
        column_map: A first map, as YAML; what nobody can know is marked.
    """

    facts: dict[str, str]
    warnings: tuple[str, ...]
    column_map: str


def inspect(path: Path) -> Inspection:
    """Looks at the beginning of a file: columns, clock, rate, units, gravity, rest.

    Args:
        path: A .csv, .csv.gz, .parquet or device file.

    Raises:
        PrepError: It is none, or cannot be read.
    """
    table, layout = _read(path)
    facts = {"rows looked at": f"{len(table):,}", "columns": ", ".join(map(str, table.columns)), **layout["facts"]}
    found: dict[str, Any] = {"title": path.stem, "sampling_rate_hz": None}
    warnings: list[str] = []
    clock, seconds = _clock(table, warnings)
    rate = float("nan")
    if seconds is None:
        warnings.append("no column of times was recognised: give sampling_rate_hz, and samples follow each other.")
    else:
        steps = np.diff(seconds)
        rate = measured_rate_hz(seconds)
        facts["time"] = f"{clock['column']} in {clock['unit']}, {seconds[-1] - seconds[0]:,.1f} s"
        facts["rate by the median step"] = f"{rate:.4g} Hz"
        repeats, back = int((steps == 0).sum()), int((steps < 0).sum())
        holes = int((steps > 1.5 / rate).sum()) if rate > 0 else 0
        facts["stamps"] = f"{repeats} repeat, {back} go back, {holes} pauses of more than 1.5 steps"
        if repeats:
            packets = repeats > len(steps) / 3
            clock["repeats"] = "spread" if packets else "first"
            if packets:
                rate *= len(seconds) / max(1, len(np.unique(seconds)))
                facts["rate, packets spread"] = f"{rate:.4g} Hz"
        if back and float(steps.min()) > -1.0:
            clock["backward"] = "drop"
        elif back:
            warnings.append(
                f"the time goes back by {-steps.min():,.0f} s: another recording begins there; split the file."
            )
        found["time"] = clock
    if rate > 0:
        whole = float(np.round(rate))
        found["sampling_rate_hz"] = whole if whole and abs(rate / whole - 1) < 0.01 else float(np.round(rate, 2))
    channels = _channels(table, warnings, facts, rate)
    found["channels"] = channels
    used = {channel["column"] for channel in channels.values()} | ({clock["column"]} if clock else set())
    rest = [str(name) for name in table.columns if name not in used]
    label = next((name for name in rest if _LABEL.search(name)), None)
    subject = next((name for name in rest if _SUBJECT.search(name) and _names_somebody(table[name])), None)
    if label is None:
        found["label"] = {"from_file": "{name}.labels.csv", "unit": "iso", "missing": "drop"}
        warnings.append(
            "no column of activities was recognised: the map expects NAME.labels.csv (start, end, label; ISO 8601)."
        )
    else:
        found["label"] = {"column": label}
        empty = int(table[label].astype("string").str.strip().fillna("").isin(NO_WORD).sum())
        if empty:
            found["label"]["missing"] = "drop"
            facts["rows without an activity"] = f"{empty:,}"
    found["subject"] = {"column": subject} if subject else {"from_name": "(?P<subject>[^_]+).*"}
    found |= layout["keys"]
    ignored = [name for name in rest if name not in (label, subject)]
    if ignored and not path.name.lower().endswith(SUFFIXES):
        found["ignore"] = ignored
    return Inspection(facts, tuple(warnings), yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    name = path.name.lower()
    nothing: dict[str, Any] = {"facts": {}, "keys": {}}
    if not path.is_file():
        raise PrepError(f"{path}: no such file.")
    try:
        if name.endswith(SUFFIXES):
            return read_device(path).head(_ROWS), nothing
        if name.endswith(".parquet"):
            with pq.ParquetFile(path) as file:
                table = next(file.iter_batches(_ROWS), None)
                if table is None:
                    raise PrepError(f"{path}: the file holds no samples.")
                return table.to_pandas(ignore_metadata=True), nothing
        if name.endswith((".csv", ".csv.gz")):
            return _read_text(path)
    except PrepError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise PrepError(f"{path} cannot be read: {str(error).strip() or type(error).__name__}.") from error
    raise PrepError(f"{path}: what can be read ends with .csv, .csv.gz, .parquet, {', '.join(SUFFIXES)}.")


def _read_text(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    import gzip

    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rb") as file:
        head = file.read(65_536)
    encoding = next(one for one in ("utf-8", "latin-1") if _decodes(head, one))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encoding = "utf-16"
    lines = head.decode(encoding, "replace").splitlines()[:-1][:50] or head.decode(encoding, "replace").splitlines()
    if not lines:
        raise PrepError(f"{path}: the file is empty.")
    mark = max(";\t|,", key=lambda one: lines[-1].count(one) if one != "," else 0.5 * lines[-1].count(one))
    fields = lines[-1].count(mark)
    # The header is the first line with as many fields as the data that holds words.
    skip = next((n for n, line in enumerate(lines) if line.count(mark) == fields and re.search("[A-Za-z]", line)), 0)
    decimal = "," if mark != "," and re.search(r"\d,\d", lines[-1]) else "."
    options = {"sep": mark, "skiprows": skip, "encoding": encoding, "skipinitialspace": True, "index_col": False}
    header = pd.read_csv(path, nrows=0, **options).columns
    missing = {name: NO_WORD if _LABEL.search(str(name)) else MISSING for name in header}  # as the reader has it
    table = pd.read_csv(path, nrows=_ROWS, decimal=decimal, keep_default_na=False, na_values=missing, **options)
    keys = {"delimiter": mark, "decimal": decimal, "skip_rows": skip, "encoding": encoding}
    usual = {"delimiter": ",", "decimal": ".", "skip_rows": 0, "encoding": "utf-8"}
    said = {name: value for name, value in keys.items() if value != usual[name]}
    return table, {"facts": {name: repr(value) for name, value in said.items()}, "keys": said}


def _decodes(head: bytes, encoding: str) -> bool:
    try:
        head[:-4].decode(encoding)
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8
    return True


def _clock(table: pd.DataFrame, warnings: list[str]) -> tuple[dict[str, str], np.ndarray | None]:
    """The column of times as the map has it, and seconds."""
    for name in sorted(table.columns, key=lambda name: _TIME.match(str(name)) is None):
        values = table[name].dropna()
        if len(values) < 2:
            continue
        if pd.api.types.is_numeric_dtype(values):
            if not _TIME.match(str(name)):
                continue
            numbers = values.to_numpy(dtype=float)
            steps = np.diff(numbers)
            step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
            step *= len(np.unique(numbers)) / len(numbers)  # packets share a stamp
            # The unit in which the step is that of 5 to 500 Hz; of several the coarsest.
            unit = next((one for one, parts in PER_SECOND.items() if 0.002 <= step / parts <= 0.2), None)
            if unit is not None:
                return {"column": str(name), "unit": unit}, numbers / PER_SECOND[unit]
            continue
        stamps = values
        if not pd.api.types.is_datetime64_any_dtype(values):
            stamps = pd.to_datetime(table[name], format="ISO8601", errors="coerce", utc=True)
            if stamps.notna().mean() <= 0.99:
                continue
        seconds = _since_first(stamps.dropna())
        if seconds.any():
            return {"column": str(name), "unit": "iso"}, seconds
        warnings.append(
            f"column {str(name)!r} is {values.iloc[0]} throughout: no clock. Where a time of day lies beside it, join "
            "the two into one column."
        )
    return {}, None


def _names_somebody(column: pd.Series) -> bool:
    """Not a measurement; 1.0 is somebody, whom some programs write so."""
    values = column.dropna()
    return not (pd.api.types.is_float_dtype(values) and (values % 1 != 0).any())


def _since_first(stamps: pd.Series) -> np.ndarray:
    return ((stamps - stamps.iloc[0]) / pd.Timedelta(seconds=1)).to_numpy(dtype=float)


def _channels(
    table: pd.DataFrame, warnings: list[str], facts: dict[str, str], rate: float
) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {"acc": {}, "gyro": {}}
    for name in table.columns:
        match = _AXIS.match(str(name))
        if match is None or not pd.api.types.is_numeric_dtype(table[name]):
            continue
        kind = "gyro" if (match["kind"] or "").lower() in _GYRO else "acc"
        groups[kind].setdefault(match["axis"].lower(), str(name))
    channels: dict[str, dict[str, str]] = {}
    for kind, axes in groups.items():
        if set(axes) != set("xyz"):
            continue
        values = table[[axes[axis] for axis in "xyz"]].to_numpy(dtype=float)
        named, by = _named_unit(axes["x"]), "by its size"
        length = float(np.nanmedian(np.linalg.norm(values, axis=1)))
        if kind == "acc":
            low, high = GRAVITY
            fits = [one for one in ("m/s^2", "g", "mg") if low <= length * UNITS[one][1] <= high]
            unit = fits[0] if fits else None
            if named in ("m/s^2", "g", "mg") and unit not in (None, named):
                warnings.append(
                    f"column {axes['x']!r} says {named}, and an acceleration of {length:.3g} is gravity in {unit}."
                )
            facts["length of acceleration, median"] = f"{length:.4g}: {unit or 'no unit known here'}"
            if unit is None:
                warnings.append(
                    f"the median acceleration is {length:.3g} long, which is gravity in no unit here (9.81 m/s^2, "
                    "1 g or 1000 mg): was gravity taken out (unchecked: [acc]), or are these codes of a converter?"
                )
            else:
                _rest(values * UNITS[unit][1], rate, facts, warnings)
        else:
            largest = float(np.nanquantile(np.linalg.norm(values, axis=1), 0.999))
            unit = "rad/s" if largest < _FASTEST and length < CALM else "deg/s"
            if named in ("rad/s", "deg/s"):
                if named == "rad/s" != unit:
                    warnings.append(
                        f"column {axes['x']!r} says rad/s, and rates of {largest:.4g} are in deg/s by size."
                    )
                unit, by = named, f"as column {axes['x']!r} says"
            elif unit == "rad/s":
                warnings.append(
                    f"angular rates up to {largest:.3g} are of motion in rad/s, or of hardly any in deg/s: the "
                    "device's manual says which."
                )
            facts["angular rate, 999 of 1000 below"] = f"{largest:.4g}: {unit} {by}"
        channels |= {f"{kind}_{axis}": {"column": axes[axis], "unit": unit or "m/s^2"} for axis in "xyz"}
    if not channels:
        warnings.append("no three axes were recognised: name the channels' columns.")
    return channels


def _named_unit(column: str) -> str | None:
    """The unit that the name of an axis' column states behind the axis."""
    match = _AXIS.match(column)
    rest = match["rest"] if match else ""
    return next((unit for unit, pattern in _NAMED_UNITS if pattern.search(rest)), None)


def _rest(values: np.ndarray, rate: float, facts: dict[str, str], warnings: list[str]) -> None:
    """Minutes in which nothing moves: nobody wore it, and gravity shows how well it is calibrated."""
    size = int(_STILL_SPAN_S * rate) if rate > 0 else 0
    if not size or len(values) < size:
        return
    spans = values[: len(values) // size * size].reshape(-1, size, 3)
    still = (spans.std(axis=1) < _STILL_G * STANDARD_GRAVITY).all(axis=1)
    facts["minutes without any motion (perhaps not worn)"] = f"{int(still.sum())} of {len(spans)}"
    if still.any():
        resting = float(np.median(np.linalg.norm(spans[still].mean(axis=1), axis=1)))
        facts["gravity at rest"] = f"{resting:.3f} m/s^2"
        if abs(resting / STANDARD_GRAVITY - 1) > 0.05:
            warnings.append(
                f"at rest gravity is {resting:.2f} m/s^2 and not {STANDARD_GRAVITY:.2f}: calibrate the device."
            )
