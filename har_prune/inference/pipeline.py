"""HarPipeline: a recording of sensors in, a timeline of activities out."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_prep.errors import PrepError
from data_prep.signals import resampled, whole_stretches
from data_prep.tables import measured_rate_hz, on_grid
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.channels import match_channels
from har_prune.errors import DataError
from har_prune.exporters.deployed import deployed, load_classifier
from har_prune.exporters.export import FORMATS, format_of

Run = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
_MAX_GAP_S = 0.25  # filled on a straight line, as data_prep does
_SAME_RATE = 0.02  # clocks drift


@dataclass(frozen=True)
class Segment:
    """A stretch of time with one activity.

    Args:
        start_s: When it starts, in seconds from the first sample.
        end_s: When it ends.
        label: The activity; None where there is too little data to tell.
        probability: Mean of what the network gives it; None without a label.
    """

    start_s: float
    end_s: float
    label: str | None
    probability: float | None


@dataclass(frozen=True)
class Timeline:
    """What a recording shows.

    Args:
        segments: One after the other, from the first sample to the last, gaps included.
        starts_s: When each window that was looked at starts, [W].
        probabilities: What the network says of it, [W, classes].
        labels: Names of the classes.
    """

    segments: tuple[Segment, ...]
    starts_s: np.ndarray
    probabilities: np.ndarray
    labels: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """Columns start_s, end_s, label, probability."""
        return pd.DataFrame([vars(segment) for segment in self.segments])


class HarPipeline:
    """A classifier of sensor windows over whole recordings.

    Args:
        run: Windows [N, T, C] in physical units and their mask [N, T], by name -> (logits, probabilities).
        facts: Labels, sampling rate, channels, units, window and hop, as an export has them.
        name: Of the network, for messages.
    """

    def __init__(self, run: Run, facts: Mapping[str, Any], name: str = "network"):
        self.run, self.facts, self.name = run, dict(facts), name
        self.labels = tuple(facts["labels"])
        self.rate, self.size = float(facts["sampling_rate_hz"]), int(facts["window_size"])

    @classmethod
    def from_pretrained(cls, source: str | Path, *, trust_remote_code: bool = False) -> "HarPipeline":
        """Loads a network.

        Args:
            source: Folder or Hub id of a checkpoint, or the .onnx or .pte file of an export.
            trust_remote_code: Whether code of the checkpoint may run.

        Raises:
            DataError: It is no classifier of sensor windows.
            CheckpointError, ExportError: It cannot be loaded.
        """
        path = Path(source)
        format = next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
        if format is None:
            made = deployed(*load_classifier(Checkpoint(source, trust_remote_code=trust_remote_code)))
            facts, run = made.facts, _in_torch(made.network)
        else:
            record = path.with_name("export.json")
            if not (path.is_file() and record.is_file()):
                raise DataError(f"{path}: an export is a file with its export.json beside it, and one is missing.")
            facts, run = json.loads(record.read_text(encoding="utf-8"))["facts"], format_of(format).load(path)
        if "sampling_rate_hz" not in facts:
            raise DataError(f"{source} classifies no sensor windows (its input: {facts['input']}).")
        return cls(run, facts, str(source))

    def __call__(
        self,
        recording: np.ndarray | pd.DataFrame | str | Path,
        sampling_rate_hz: float | None = None,
        *,
        units: Sequence[str] | None = None,
        hop_s: float | None = None,
        batch_size: int = 256,
    ) -> Timeline:
        """Looks at a recording window by window.

        Windows start every hop; the last one of a stretch ends with it. What is between two starts is given the mean
        of all windows that cover it. Gaps of up to 0.25 s are filled on a straight line, at longer ones the
        recording is cut, and a stretch of less than half a window is told to be too short.

        Args:
            recording: Samples [T, C] in the order of the network's channels, NaN where nothing was measured; or a
                table, or a .csv, .parquet or .npy file, whose columns are named as the channels are. It may have a
                column `time`: seconds, or ISO 8601.
            sampling_rate_hz: Of the samples; None = by `time`, and without it that of the network.
            units: Of the channels, in the network's order; None = the network's own.
            hop_s: Seconds between the starts of two windows; None = what the network's record says.
            batch_size: Windows that go through the network at a time.

        Raises:
            DataError: There are no samples, channels are missing, time runs backwards, or a file cannot be read.
            CheckpointError: A unit does not convert.
        """
        values, rate = self._samples(recording, sampling_rate_hz)
        values = self._in_own_units(values, units)
        hop = round((float(self.facts["hop_s"]) if hop_s is None else hop_s) * self.rate)
        if not 1 <= hop <= self.size:
            raise DataError(
                f"hop_s={hop_s}: a hop is at least a sample ({1 / self.rate:g} s at {self.rate:g} Hz) and at most a "
                f"window ({self.size / self.rate:g} s), or some of the recording would be looked at by none."
            )
        segments: list[Segment] = []
        starts: list[float] = []
        found: list[np.ndarray] = []
        end = 0.0
        for first, stretch in whole_stretches(values, rate, _MAX_GAP_S):
            begin = first / rate
            samples = self._resampled(stretch, rate)
            if begin > end:
                segments.append(Segment(end, begin, None, None))
            end = begin + len(stretch) / rate
            if len(samples) < self.size / 2:
                segments.append(Segment(begin, end, None, None))
                continue
            places = _starts(len(samples), self.size, hop)
            chances = self._probabilities(samples, places, batch_size)
            starts += [begin + place / self.rate for place in places]
            found.append(chances)
            segments += self._segments(begin, end, places, chances, hop)
        if len(values) / rate > end:
            segments.append(Segment(end, len(values) / rate, None, None))
        every = np.concatenate(found) if found else np.empty((0, len(self.labels)))
        return Timeline(tuple(_joined(segments)), np.array(starts), every, self.labels)

    def _samples(self, recording: Any, sampling_rate_hz: float | None) -> tuple[np.ndarray, float]:
        """[T, C] in the network's order of channels, and their rate."""
        name = str(recording) if isinstance(recording, str | Path) else "recording"
        if isinstance(recording, str | Path):
            recording = _read(Path(recording))
        times = None
        if isinstance(recording, pd.DataFrame):
            times = _seconds(recording["time"], name) if "time" in recording else None
            missing = [channel for channel in self.facts["channels"] if channel not in recording]
            if missing:
                raise DataError(
                    f"{name} has no column {', '.join(map(repr, missing))} (columns: "
                    f"{', '.join(map(str, recording))}), "
                    f"and {self.name} takes {', '.join(self.facts['channels'])}. Rename the columns."
                )
            recording = recording[list(self.facts["channels"])].to_numpy(dtype=np.float64)
        values = np.asarray(recording, dtype=np.float64)
        channels = len(self.facts["channels"])
        if values.ndim != 2 or values.shape[1] != channels or len(values) < 2:
            raise DataError(
                f"{name} has shape {values.shape}; samples [T, {channels}] are wanted, at least two, with channels "
                f"{', '.join(self.facts['channels'])}."
            )
        if np.isinf(values).any():
            raise DataError(f"{name} holds infinity in sample {int(np.argwhere(np.isinf(values))[0][0])}.")
        rate = sampling_rate_hz
        if rate is None:
            rate = self.rate if times is None else _rate_of(times, self.rate)
        if not 0 < rate < float("inf"):
            raise DataError(f"sampling_rate_hz={rate}: must be above 0.")
        if times is not None:
            try:
                values = on_grid(Path(name), times, values, rate)
            except PrepError as error:
                raise DataError(str(error)) from error
        return values, rate

    def _in_own_units(self, values: np.ndarray, units: Sequence[str] | None) -> np.ndarray:
        if units is None:
            return values
        stated = {"channels": list(self.facts["channels"]), "units": list(units)}
        if len(stated["units"]) != values.shape[1]:
            raise DataError(f"units name {len(stated['units'])} of {values.shape[1]} channels: give one for each.")
        wanted = _Wanted(self.facts)
        factors = match_channels(stated, values.shape[1], wanted, self.name).factors
        return values * np.asarray(factors)

    def _resampled(self, stretch: np.ndarray, rate: float) -> np.ndarray:
        try:
            return resampled(stretch, rate, self.rate)
        except PrepError as error:
            raise DataError(str(error)) from error

    def _probabilities(self, samples: np.ndarray, places: list[int], batch_size: int) -> np.ndarray:
        found = []
        for first in range(0, len(places), batch_size):
            some = places[first : first + batch_size]
            windows = np.zeros((len(some), self.size, samples.shape[1]), np.float32)
            mask = np.zeros((len(some), self.size), np.float32)
            for row, place in enumerate(some):
                part = samples[place : place + self.size]
                windows[row, : len(part)], mask[row, : len(part)] = part, 1
            found.append(self.run({"windows": windows, "mask": mask})[1])
        return np.concatenate(found)

    def _segments(
        self, begin: float, end: float, places: list[int], chances: np.ndarray, hop: int
    ) -> Iterator[Segment]:
        """One for each piece between two starts, by the mean of the windows that cover it."""
        edges = sorted({*places, *range(0, places[-1] + self.size, hop)})
        starts = np.array(places)
        for left, right in zip(edges, [*edges[1:], None], strict=True):
            covering = (starts <= left) & (left < starts + self.size)
            mean = chances[covering].mean(0)
            best = int(mean.argmax())
            until = end if right is None else min(end, begin + right / self.rate)
            if until > begin + left / self.rate:
                yield Segment(begin + left / self.rate, until, self.labels[best], float(mean[best]))


class _Wanted:
    """The network's channels as `match_channels` reads them of a feature extractor."""

    def __init__(self, facts: Mapping[str, Any]):
        self.sampling_rate_hz, self.window_size = facts["sampling_rate_hz"], facts["window_size"]
        self.channel_names, self.channel_units = list(facts["channels"]), list(facts["units"])
        self.num_channels = len(self.channel_names)


def _in_torch(network: torch.nn.Module) -> Run:
    @torch.no_grad()
    def run(inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits, probabilities = network(**{name: torch.as_tensor(value) for name, value in inputs.items()})
        return logits.numpy(), probabilities.numpy()

    return run


def _starts(samples: int, size: int, hop: int) -> list[int]:
    """First samples of windows: every hop, and of one that ends with the stretch."""
    last = max(0, samples - size)
    return sorted({*range(0, last + 1, hop), last})


def _joined(segments: list[Segment]) -> Iterator[Segment]:
    """Neighbours of one label as one, its probability the mean over time."""
    waiting: Segment | None = None
    for segment in segments:
        if waiting is not None and waiting.label == segment.label:
            spans = (waiting.end_s - waiting.start_s, segment.end_s - segment.start_s)
            mean = None
            if waiting.probability is not None and segment.probability is not None:
                mean = (waiting.probability * spans[0] + segment.probability * spans[1]) / sum(spans)
            waiting = Segment(waiting.start_s, segment.end_s, segment.label, mean)
            continue
        if waiting is not None:
            yield waiting
        waiting = segment
    if waiting is not None:
        yield waiting


def _read(path: Path) -> np.ndarray | pd.DataFrame:
    """A file of samples; a .npy file with pickled objects is never opened."""
    kind = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    try:
        if kind == "npy":
            return np.load(path, allow_pickle=False)
        if kind == "csv":
            return pd.read_csv(path)
        if kind == "parquet":
            return pd.read_parquet(path)
    except Exception as error:  # whatever a damaged file makes its reader raise
        raise DataError(f"{path} cannot be read: {str(error).strip()}") from error
    raise DataError(f"{path}: a recording is a .csv, .parquet or .npy file.")


def _seconds(times: pd.Series, name: str) -> np.ndarray:
    if not pd.api.types.is_numeric_dtype(times):
        stamps = pd.to_datetime(times, utc=True, errors="coerce", format="ISO8601")
        times = (stamps - stamps.iloc[0]) / pd.Timedelta(seconds=1) if len(stamps) else times
    seconds = times.to_numpy(dtype=np.float64)
    if np.isnan(seconds).any():
        raise DataError(f"{name}: the time of sample {int(np.flatnonzero(np.isnan(seconds))[0])} is no time.")
    return seconds


def _rate_of(times: np.ndarray, usual: float) -> float:
    """By the median step; a clock that drifts by less than a fiftieth has the network's rate, others a whole one."""
    measured = measured_rate_hz(times)
    if not measured > 0:
        raise DataError("the times of the recording do not go forward.")
    return usual if abs(measured / usual - 1) < _SAME_RATE else float(max(1, round(measured)))
