"""What the columns of one's own CSV files are: a YAML file.

title: My recordings
sampling_rate_hz: 50
time: {column: t, unit: ms}                 # s, ms, us, ns or iso; left out: samples follow each other without a gap
channels:
  acc_x: {column: ax, unit: g}              # m/s^2, g, mg, rad/s, deg/s; written as m/s^2 and rad/s
  gyro_x: {column: gx, unit: deg/s}
label: {column: activity}
subject: {column: user}                     # or {from_name: "(?P<subject>[a-z]+)_.*"}, of the file's name
ignore: [temperature]                       # columns that are there and not wanted
delimiter: ";"                              # between fields; left out: a comma
decimal: ","                                # left out: a point
skip_rows: 3                                # lines above the header; left out: none
unchecked: [acc]                            # acc_x, acc_y, acc_z may have any length: gravity was taken out
"""

import re
import warnings
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep.errors import PrepError


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TimeColumn(_Strict):
    """The column of time stamps: numbers in a unit, or ISO 8601 such as 2024-05-31T13:45:10.250+02:00."""

    column: str
    unit: Literal["s", "ms", "us", "ns", "iso"] = "s"


class ChannelColumn(_Strict):
    """The column of a channel, and the unit it is in."""

    column: str
    unit: Literal["m/s^2", "g", "mg", "rad/s", "deg/s"]


class LabelColumn(_Strict):
    """The column of the activity."""

    column: str


class Subject(_Strict):
    """Who was recorded: a column, or a group called `subject` in the file's name."""

    column: str | None = None
    from_name: str | None = Field(None, description="regular expression of the file's name without its suffix")

    @model_validator(mode="after")
    def _one(self) -> "Subject":
        if (self.column is None) == (self.from_name is None):
            raise ValueError("give column or from_name, one of them")
        if self.from_name is not None and "subject" not in re.compile(self.from_name).groupindex:
            raise ValueError("from_name needs a group (?P<subject>...)")
        return self


class ColumnMap(_Strict):
    """What the columns of some CSV files are."""

    title: str = "Own recordings"
    sampling_rate_hz: float = Field(gt=0)
    time: TimeColumn | None = None
    channels: dict[str, ChannelColumn] = Field(min_length=1)
    label: LabelColumn
    subject: Subject
    ignore: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    delimiter: str = Field(",", min_length=1, max_length=1)
    decimal: Literal[".", ","] = "."
    skip_rows: int = Field(0, ge=0)
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
        return self

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are read."""
        named = [self.time.column] if self.time else []
        named += [channel.column for channel in self.channels.values()] + [self.label.column]
        return named + ([self.subject.column] if self.subject.column else [])


def load_map(path: Path) -> ColumnMap:
    """Reads and checks a column map.

    Raises:
        PrepError: It is missing, no YAML, or says something else; every problem is named.
    """
    try:
        return ColumnMap.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PrepError(f"column map {path} cannot be read: {error.strerror}. Say what the columns are.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PrepError(f"column map {path} is not YAML: {error}") from error
    except (ValidationError, re.error) as error:
        problems = (
            error.errors() if isinstance(error, ValidationError) else [{"loc": ("from_name",), "msg": str(error)}]
        )
        lines = [f"  {'.'.join(map(str, problem['loc'])) or 'map'}: {problem['msg']}" for problem in problems]
        raise PrepError(f"column map {path} has {len(lines)} problem(s):\n" + "\n".join(lines)) from error
