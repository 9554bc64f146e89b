"""HarPipeline: a recording of sensors in, a timeline of activities out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from data_prep.device_files import SUFFIXES
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.channels import match_channels, mirror_signs
from har_prune.errors import DataError, ExportError, HarPruneError
from har_prune.exporters.deployed import deployed, hop_of, load_classifier
from har_prune.exporters.export import FORMATS, facts_beside, format_of
from har_prune.inference.recording import samples_of, warn_of_units
from har_prune.inference.smoothing import Segment, Smoothing, decided, settled
from har_prune.inference.windows import Stretch, WindowCutter

Run = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


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
            CheckpointError: It cannot be loaded.
            ExportError: A file cannot.
        """
        path = Path(source)
        format = next((name for name, suffix in FORMATS.items() if path.suffix == suffix), None)
        if format is None:
            return cls.of_checkpoint(Checkpoint(source, trust_remote_code=trust_remote_code))
        facts = _of_windows(facts_beside(path), source)
        try:
            return cls(format_of(format).load(path), facts, str(source))
        except Exception as error:  # whatever a damaged file makes its runtime raise
            if isinstance(error, HarPruneError):
                raise
            raise ExportError(f"{path} cannot be loaded ({type(error).__name__}: {error}).") from error

    @classmethod
    def of_checkpoint(cls, source: Checkpoint) -> "HarPipeline":
        """Loads a network at a revision.

        Raises:
            DataError: It is no classifier of sensor windows.
            CheckpointError: It cannot be loaded.
        """
        made = deployed(*load_classifier(source))
        return cls(_in_torch(made.network), _of_windows(made.facts, source), str(source))

    def __call__(
        self,
        recording: np.ndarray | pd.DataFrame | str | Path,
        sampling_rate_hz: float | None = None,
        *,
        units: Sequence[str] | None = None,
        hop_s: float | None = None,
        smoothing: Smoothing | None = None,
        mirror: bool = False,
        batch_size: int = 256,
    ) -> Timeline:
        """Looks at a recording window by window.

        Windows start every hop; the last one of a stretch ends with it. Every moment is given the mean of all windows
        that cover it. Gaps of up to 0.25 s are filled on a straight line, at longer ones the
        recording is cut, and a stretch of less than half a window is told to be too short.

        Args:
            recording: Samples [T, C] in the order of the network's channels, NaN where nothing was measured; or a
                table, or a .csv, .parquet or .npy file, whose columns are named as the channels are. It may have a
                column `time`: seconds, or ISO 8601. Or the file of a device (.cwa, .gt3x, .bin; extra devices).
            sampling_rate_hz: Of the samples; None = by `time`, and without it that of the network.
            units: Of the channels, in the network's order; None = the network's own, of a device's file g and deg/s.
            hop_s: Seconds between the starts of two windows; None = what the network's record says.
            smoothing: How labels of pieces that follow each other are settled; None = each by itself.
            mirror: Whether the device was on the other wrist than the network's training data had it; see
                `har_prune.data.channels.mirror_signs` for the axes.
            batch_size: Windows that go through the network at a time.

        Raises:
            DataError: There are no samples, channels are missing, time runs backwards or jumps, or a file
                cannot be read.
            CheckpointError: A unit does not convert.
        """
        if units is None and isinstance(recording, str | Path) and str(recording).lower().endswith(SUFFIXES):
            units = ["deg/s" if channel.startswith("gyro") else "g" for channel in self.facts["channels"]]
        values, times, rate = samples_of(recording, self.facts, sampling_rate_hz, self.name)
        factors, cutter = self.factors_of(units, mirror=mirror), self.cutter(rate, hop_s)
        warn_of_units(values * factors, self.facts)
        starts: list[float] = []
        found: list[np.ndarray] = []
        waiting: list[np.ndarray] = []
        stretches: list[tuple[Stretch, list[int]]] = []
        places: list[int] = []
        for part in chain(cutter.push(values, times), cutter.finish()):
            if isinstance(part, Stretch):
                stretches.append((part, places))
                places = []
                continue
            places.append(part.place)
            starts.append(part.start_s)
            waiting.append(part.samples * factors)
            if len(waiting) == batch_size:
                found.append(self.probabilities(waiting))
                waiting = []
        if waiting:
            found.append(self.probabilities(waiting))
        every = np.concatenate(found) if found else np.empty((0, len(self.labels)))
        segments: list[Segment] = []
        seen = 0
        for stretch, own in stretches:
            if not stretch.looked_at:
                segments.append(Segment(stretch.start_s, stretch.end_s, None, None))
                continue
            edges, chances = self._pieces(stretch, np.array(own), every[seen : seen + len(own)], cutter.hop)
            seen += len(own)
            seconds = np.diff(edges)
            shares = self.share_of(cutter.hop) * seconds * self.rate / cutter.hop  # half a hop says half as much
            segments += self._segments(edges, *decided(chances, seconds, smoothing, shares))
        return Timeline(tuple(settled(segments, smoothing)), np.array(starts), every, self.labels)

    def cutter(self, given_hz: float, hop_s: float | None) -> WindowCutter:
        """What cuts samples of a rate into the network's windows.

        Raises:
            DataError: A hop is no sample long, or longer than a window; the rates have no small ratio.
        """
        hop = hop_of(float(self.facts["hop_s"]) if hop_s is None else hop_s, self.rate, self.size)
        return WindowCutter(given_hz, self.rate, self.size, hop)

    def share_of(self, hop: int) -> float:
        """Of what a window says, what windows a hop further say not as well: sqrt(hop / window).

        Were they independent it would be 1; did they only repeat each other, hop / window. This is between the two,
        and was chosen on subjects of WHARF (f1, f3) that no result has.
        """
        return float(np.sqrt(hop / self.size))

    def factors_of(self, units: Sequence[str] | None, *, mirror: bool = False) -> np.ndarray:
        """What samples in some units, of the other wrist perhaps, are multiplied by to be the network's, [C].

        Raises:
            DataError: There is not one unit for each channel.
            CheckpointError: A unit does not convert, or a channel has no mirror image.
        """
        channels = len(self.facts["channels"])
        signs = mirror_signs(self.facts["channels"], self.facts["units"]) if mirror else np.ones(channels)
        if units is None:
            return signs
        stated = {"channels": list(self.facts["channels"]), "units": list(units)}
        if len(stated["units"]) != channels:
            raise DataError(f"units name {len(stated['units'])} of {channels} channels: give one for each.")
        return signs * np.asarray(match_channels(stated, channels, _Wanted(self.facts), self.name).factors)

    def probabilities(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Of each class, [N, classes], for windows [t, C] in the network's units, each at most its window long."""
        padded = np.zeros((len(windows), self.size, len(self.facts["channels"])), np.float32)
        mask = np.zeros((len(windows), self.size), np.float32)
        for row, samples in enumerate(windows):
            padded[row, : len(samples)], mask[row, : len(samples)] = samples, 1
        return self.run({"windows": padded, "mask": mask})[1]

    def _pieces(
        self, stretch: Stretch, places: np.ndarray, chances: np.ndarray, hop: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """A stretch cut where windows start or end and every hop: edges in seconds [P + 1], mean on each [P, K]."""
        ends = places[:-1] + self.size  # the last one ends with the stretch
        lefts = np.unique(np.concatenate([places, ends, np.arange(0, places[-1] + self.size, hop)]))
        edges = stretch.start_s + lefts / self.rate
        lefts, edges = lefts[edges < stretch.end_s], edges[edges < stretch.end_s]
        first = np.searchsorted(places, lefts - self.size, side="right")
        behind = np.searchsorted(places, lefts, side="right")
        means = [chances[start:stop].mean(0) for start, stop in zip(first, behind, strict=True)]
        return np.append(edges, stretch.end_s), np.stack(means)

    def _segments(self, edges: np.ndarray, classes: np.ndarray, probability: np.ndarray) -> Iterator[Segment]:
        for left, right, best, chance in zip(edges, edges[1:], classes, probability, strict=False):
            yield Segment(float(left), float(right), self.labels[best], float(chance))


def _of_windows(facts: dict[str, Any], source: Any) -> dict[str, Any]:
    if "sampling_rate_hz" not in facts:
        raise DataError(f"{source} classifies no sensor windows (its input: {facts['input']}).")
    return facts


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
