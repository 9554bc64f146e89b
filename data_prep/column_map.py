"""What the columns of one's own CSV, Parquet or device files are: a YAML file.

title: My recordings
sampling_rate_hz: 50
other_rates: {"watch/.*": 100}              # Hz of files whose path, without the suffix, is like this; windows: 50 Hz
time: {column: t, unit: ms}                 # s, ms, us, ns or iso; left out: samples follow each other without a gap
channels:
  acc_x: {column: ax, unit: g}              # m/s^2, g, mg, rad/s, deg/s; written as m/s^2 and rad/s
  acc_y: {column: ay, unit: g}
  acc_z: {column: az, unit: g}
  gyro_x: {column: gx, unit: deg/s}
label: {column: activity}                   # rows without: missing: refuse, drop, or keep as null
subject: {column: user}                     # or {from_name: "(?P<subject>[a-z]+)_.*"}, of the file's name
# Folders that say it: of anna/walking/1.csv the path below the given folder, without the suffix
# subject: {from_path: "(?P<subject>[^/]+)/[^/]+/[^/]+"}
# label: {from_path: "[^/]+/(?P<label>[^/]+)/[^/]+"}
ignore: [temperature]                       # columns that are there and not wanted
delimiter: ";"                              # between fields; left out: a comma
decimal: ","                                # left out: a point
skip_rows: 3                                # lines above the header; left out: none
encoding: latin-1                           # left out: utf-8
unchecked: [acc]                            # acc_x, acc_y, acc_z may have any length: gravity was taken out

# Clocks of devices: local time without an offset (an hour that comes twice, or never, when clocks change is refused);
# text that is not ISO 8601; stamps that repeat (refuse, first, mean, or spread for samples that came as a packet) or
# go back (refuse, drop): where nothing is said they are refused, and what is repaired is counted.
# time: {column: t, unit: iso, zone: Europe/Vienna}
# time: {column: t, unit: iso, format: "%d.%m.%Y %H:%M:%S.%f"}
# time: {column: t, unit: ms, repeats: spread, backward: drop}

# Labels in a file of intervals beside each recording, those of walk.csv in walk.labels.csv; or "labels/{name}.csv".
# label: {from_file: "{name}.labels.csv", start: from, end: to, label: what, missing: drop}
# where the recording's times are numbers since 1970 and the labels' are local: unit: iso, zone: Europe/Vienna

# A device's file (.cwa, .gt3x, GENEActiv .bin; extra devices): acc_x, acc_y, acc_z in g, gyro_x ... in deg/s, and
# time: {column: time, unit: ns}
# label: {from_file: "{name}.labels.csv", unit: iso, missing: drop}

still_min: 30                               # minutes without motion: not worn; windows get a column `worn`, none goes
at_once: keep                               # two recordings of one subject at a time; left out: refused as two devices

# A sensor in a file of its own, on the same clock: what goes with walk.csv in walk_turns.csv.
joined: [{file: "{name}_turns.csv", sampling_rate_hz: 100, channels: {gyro_z: {column: gz, unit: deg/s}}}]
"""

import codecs
import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from data_prep.errors import PrepError

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _known(cls, given: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Names the keys there are where one is unknown."""
        try:
            return handler(given)
        except ValidationError as error:
            known = f"unknown key; known here: {', '.join(cls.model_fields)}"
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=PydanticCustomError(
                            "map", "{said}", {"said": known if one["type"] == "extra_forbidden" else one["msg"]}
                        ),
                        loc=one["loc"],
                        input=one["input"],
                    )
                    for one in error.errors()
                ],
            ) from error


def _with_known_zone(given: Any) -> Any:
    if given.zone is not None and given.zone not in available_timezones():
        raise ValueError(f"zone {given.zone!r} is none of the tz database; they are called like Europe/Vienna")
    return given


def _compiled(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{key} is no regular expression: {error}") from error


def _with_one_source(given: Any, group: str, *sources: str) -> Any:
    """Refuses none or several of the places a word is taken from, and a pattern without the word's group."""
    said = [source for source in sources if getattr(given, source) is not None]
    if len(said) != 1:
        raise ValueError(f"give {', '.join(sources[:-1])} or {sources[-1]}, one of them")
    if said[0] in ("from_name", "from_path"):
        if group not in _compiled(getattr(given, said[0]), said[0]).groupindex:
            raise ValueError(f"{said[0]} needs a group (?P<{group}>...)")
    return given


class TimeColumn(_Strict):
    """The column of time stamps: numbers in a unit, or ISO 8601 such as 2024-05-31T13:45:10.250+02:00."""

    column: str
    unit: TimeUnit = "s"
    zone: str | None = Field(None, description="of stamps without an offset, such as Europe/Vienna; null: UTC")
    format: str | None = Field(None, description="of text that is not ISO 8601, as strptime has it")
    repeats: Literal["refuse", "first", "mean", "spread"] = "refuse"
    backward: Literal["refuse", "drop"] = "refuse"

    @model_validator(mode="after")
    def _text(self) -> "TimeColumn":
        if self.unit != "iso" and (self.zone or self.format):
            raise ValueError("zone and format are for text: give unit: iso with them")
        return _with_known_zone(self)


class ChannelColumn(_Strict):
    """The column of a channel, and the unit it is in."""

    column: str
    unit: Literal["m/s^2", "g", "mg", "rad/s", "deg/s"]


class LabelColumn(_Strict):
    """The activity: a column, a file of intervals beside each recording, or a group `label` in the file's path."""

    column: str | None = None
    from_path: str | None = Field(None, description="regular expression of the path below the folder, no suffix")
    from_file: str | None = Field(None, description="its name; {name} is the recording's without its suffix")
    start: str = Field("start", description="column of that file; times are as in the recording")
    end: str = "end"
    label: str = "label"
    unit: TimeUnit | None = Field(None, description="of its times; null: the recording's")
    zone: str | None = Field(None, description="of its times, where they have no offset; null: the recording's")
    missing: Literal["refuse", "drop", "keep"] = Field("refuse", description="rows without an activity; keep: as null")

    @model_validator(mode="after")
    def _one(self) -> "LabelColumn":
        _with_one_source(self, "label", "column", "from_file", "from_path")
        if self.from_file is not None and "{name}" not in self.from_file:
            raise ValueError("from_file needs {name}, which becomes the recording's")
        if self.from_path is not None and self.missing != "refuse":
            raise ValueError("missing is of rows without an activity, and from_path gives all of a file the same")
        if self.zone is not None and self.from_file is None:
            raise ValueError("zone is of the times in a file of intervals: give from_file with it")
        return _with_known_zone(self)


class JoinedFile(_Strict):
    """More channels of the same recording in another file, at its own rate, on the same clock."""

    file: str = Field(description="its name; {name} is the recording's without its suffix")
    sampling_rate_hz: float = Field(gt=0)
    channels: dict[str, ChannelColumn] = Field(min_length=1)
    time: TimeColumn | None = Field(None, description="null: as in the recording")

    @model_validator(mode="after")
    def _other(self) -> "JoinedFile":
        if "{name}" not in self.file or self.file.startswith("{name}."):
            raise ValueError("file needs {name} and something else, such as {name}_gyro.csv")
        return self


class Subject(_Strict):
    """Who was recorded: a column, or a group called `subject` in the file's name or path."""

    column: str | None = None
    from_name: str | None = Field(None, description="regular expression of the file's name without its suffix")
    from_path: str | None = Field(None, description="the same of its path below the folder")

    @model_validator(mode="after")
    def _one(self) -> "Subject":
        return _with_one_source(self, "subject", "column", "from_name", "from_path")


class ColumnMap(_Strict):
    """What the columns of some CSV files are."""

    title: str = "Own recordings"
    sampling_rate_hz: float = Field(gt=0)
    other_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Hz of files by a regular expression of their path below the folder, without the suffix"
    )
    time: TimeColumn | None = None
    channels: dict[str, ChannelColumn] = Field(min_length=1)
    label: LabelColumn
    subject: Subject
    ignore: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    delimiter: str = Field(",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    skip_rows: int = Field(0, ge=0)
    encoding: str = "utf-8"
    joined: tuple[JoinedFile, ...] = ()
    still_min: float | None = Field(None, gt=0, description="minutes without motion after which nobody wears it")
    at_once: Literal["refuse", "keep"] = Field("refuse", description="two recordings of one subject at the same time")
    license: str = "not stated"
    citation: str = "not stated"

    @model_validator(mode="before")
    @classmethod
    def _former_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "licence" in given and "license" not in given:
            warnings.warn("column map: the key licence is called license.", DeprecationWarning, stacklevel=2)
            given = {("license" if key == "licence" else key): value for key, value in given.items()}
        return given

    @model_validator(mode="after")
    def _two_marks(self) -> "ColumnMap":
        if self.delimiter == self.decimal:
            raise ValueError(f"delimiter and decimal are both {self.delimiter!r}: give a delimiter such as ';'")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise ValueError(f"encoding {self.encoding!r} is unknown; utf-8, utf-16 and latin-1 are usual") from error
        if self.joined and self.time is None:
            raise ValueError("joined files are joined by time: say which column it is")
        twice = [name for file in self.joined for name in file.channels if name in self.channels]
        if twice:
            raise ValueError(f"channel {twice[0]} is in the recording and in a joined file")
        for columns in (self.columns, *([each.column for each in file.channels.values()] for file in self.joined)):
            repeated = [name for place, name in enumerate(columns) if name in columns[:place]]
            if repeated:
                raise ValueError(f"column {repeated[0]!r} is read twice: one of the two is another column")
        return self

    @model_validator(mode="after")
    def _patterns(self) -> "ColumnMap":
        for pattern in self.other_rates:
            _compiled(pattern, "other_rates")
        return self

    @model_validator(mode="after")
    def _can_rest(self) -> "ColumnMap":
        if self.still_min is not None and self.accelerometer is None:
            raise ValueError(
                "still_min needs an accelerometer: channels such as acc_x, acc_y, acc_z, in m/s^2, g or mg"
            )
        return self

    def looking_for_rest(self, minutes: float) -> "ColumnMap":
        """The same with another `still_min`.

        Raises:
            PrepError: It is not above 0, or there is no accelerometer.
        """
        try:
            return ColumnMap.model_validate(self.model_dump() | {"still_min": minutes})
        except ValidationError as error:
            raise PrepError(f"--still-min {minutes:g}: {error.errors()[0]['msg']}.") from error

    def at_rate_of(self, name: str) -> "ColumnMap":
        """The map of one file, with the rate that this one is sampled at.

        Raises:
            PrepError: Several of `other_rates` are of this file.
        """
        found = {rate for pattern, rate in self.other_rates.items() if re.fullmatch(pattern, name)}
        if len(found) > 1:
            raise PrepError(f"other_rates: {name} is at {' and at '.join(f'{rate:g}' for rate in sorted(found))} Hz.")
        return self.model_copy(update={"sampling_rate_hz": found.pop()}) if found else self

    @property
    def accelerometer(self) -> list[int] | None:
        """Places of x, y and z of the first one among the recording's channels; None without."""
        names = list(self.channels)
        for name in names:
            axes = [name[:-1] + axis for axis in "xyz"]
            units = {self.channels[axis].unit for axis in axes if axis in names}
            if name.endswith("x") and set(axes) <= set(names) and units <= {"m/s^2", "g", "mg"}:
                return [names.index(axis) for axis in axes]
        return None

    @property
    def all_channels(self) -> dict[str, ChannelColumn]:
        """Those of the recording, then those of the joined files."""
        return {**self.channels, **{name: column for file in self.joined for name, column in file.channels.items()}}

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are read."""
        named = [self.time.column] if self.time else []
        named += [channel.column for channel in self.channels.values()]
        return named + [column for column in (self.label.column, self.subject.column) if column]


class _Loader(yaml.SafeLoader):
    """Safe, and without what hides a mistake: a key given twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_map(path: Path) -> ColumnMap:
    """Reads and checks a column map.

    Raises:
        PrepError: It is missing, no YAML, or says something else; every problem is named.
    """
    try:
        return ColumnMap.model_validate(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except OSError as error:
        raise PrepError(f"column map {path} cannot be read: {error.strerror}. Say what the columns are.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PrepError(f"column map {path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, problem['loc'])) or 'map'}: {problem['msg']}" for problem in error.errors()]
        raise PrepError(f"column map {path} has {len(lines)} problem(s):\n" + "\n".join(lines)) from error
