"""Two networks over one recording, side by side: where they differ and how long each takes, also as a web page."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from har_prune.errors import DataError, HarPruneError
from har_prune.inference.picture import draw_timelines
from har_prune.inference.pipeline import HarPipeline, Timeline
from har_prune.inference.recording import read_recording, seconds_of
from har_prune.inference.smoothing import Activities, Segment, Smoothing, joined
from har_prune.runtime.timing import medians_in_turns

ORIGINAL, PRUNED, TRUTH = "original", "pruned", "what was done"
_NAMELESS = "(none)"
_GAP_S = 0.25  # a longer one is a gap to the networks too


@dataclass(frozen=True)
class Difference:
    """A stretch of time that two networks call by different names; None where one names no activity."""

    start_s: float
    end_s: float
    original: str | None
    pruned: str | None


@dataclass(frozen=True)
class Comparison:
    """Two networks over one recording.

    Args:
        timelines: What each says, and what was done where the recording has a column `label`; by name.
        windows: How many windows each has looked at; by name.
        latency_ms: Median time of one window on one thread, the two in turns; by name.
        agreement: Of the time in which one of them names an activity, the share in which both name the same, 0 to 1.
        differences: Where they do not.
    """

    timelines: dict[str, tuple[Segment, ...]]
    windows: dict[str, int]
    latency_ms: dict[str, float]
    agreement: float
    differences: tuple[Difference, ...]


def compare_networks(
    original: HarPipeline, pruned: HarPipeline, recording: Path, smoothing: Smoothing | None = None
) -> Comparison:
    """Runs both over a recording.

    Args:
        original: The network as it was.
        pruned: The smaller one.
        recording: A file that `HarPipeline` reads.
        smoothing: How labels that follow each other are settled, of both.

    Raises:
        DataError: The recording cannot be read, or has no window.
    """
    networks = {ORIGINAL: original, PRUNED: pruned}
    found: dict[str, Timeline] = {name: network(recording, smoothing=smoothing) for name, network in networks.items()}
    if not all(len(timeline.starts_s) for timeline in found.values()):
        longest = max(network.size / network.rate for network in networks.values())
        raise DataError(f"{recording.name} has no stretch of half a window ({longest:g} s) without a gap.")
    latency = medians_in_turns({name: _one_window(network) for name, network in networks.items()})
    timelines = {name: timeline.segments for name, timeline in found.items()}
    agreement, differences = _differences(timelines[ORIGINAL], timelines[PRUNED])
    done = _done(recording, original.rate)
    if done:
        timelines = {TRUTH: done, **timelines}
    windows = {name: len(timeline.starts_s) for name, timeline in found.items()}
    return Comparison(timelines, windows, latency, agreement, differences)


def _one_window(network: HarPipeline) -> Callable[[], Any]:
    still = np.zeros((network.size, len(network.facts["channels"])))
    return lambda: network.probabilities([still])


def _differences(first: tuple[Segment, ...], second: tuple[Segment, ...]) -> tuple[float, tuple[Difference, ...]]:
    edges = np.unique([edge for segment in (*first, *second) for edge in (segment.start_s, segment.end_s)])
    same = named = 0.0
    found: list[Difference] = []
    middles = (edges[:-1] + edges[1:]) / 2
    labels = zip(_labels_at(first, middles), _labels_at(second, middles), strict=True)
    for (start, end), (one, other) in zip(pairwise(edges.tolist()), labels, strict=True):
        if one is None and other is None:
            continue
        named += end - start
        if one == other:
            same += end - start
        elif found and (found[-1].end_s, found[-1].original, found[-1].pruned) == (start, one, other):
            found[-1] = Difference(found[-1].start_s, end, one, other)
        else:
            found.append(Difference(start, end, one, other))
    return same / named if named else 1.0, tuple(found)


def _labels_at(segments: tuple[Segment, ...], moments: np.ndarray) -> list[str | None]:
    places = np.searchsorted([segment.end_s for segment in segments], moments)
    return [
        segments[place].label if place < len(segments) and segments[place].start_s <= moment else None
        for place, moment in zip(places.tolist(), moments.tolist(), strict=True)
    ]


def _done(recording: Path, rate: float) -> tuple[Segment, ...]:
    """What the recording itself says was done, by its column `label`."""
    if not recording.name.lower().removesuffix(".gz").endswith((".csv", ".parquet")):
        return ()
    table = read_recording(recording)
    if not isinstance(table, pd.DataFrame) or "label" not in table:
        return ()
    times = seconds_of(table["time"], recording.name) if "time" in table else np.arange(len(table)) / rate
    times = times - times[0]
    labels = [
        None if missing else _word(label) for label, missing in zip(table["label"], table["label"].isna(), strict=True)
    ]
    edges = [
        place
        for place in range(1, len(labels))
        if labels[place] != labels[place - 1] or times[place] - times[place - 1] > _GAP_S
    ]
    made: list[Segment] = []
    for start, end in pairwise([0, *edges, len(labels)]):
        until = float(times[min(end, len(labels) - 1)])
        if end < len(labels) and times[end] - times[end - 1] > _GAP_S:
            until = float(times[end - 1])
        made.append(Segment(float(times[start]), until, labels[start], None if labels[start] is None else 1.0))
    return tuple(joined(made))


def _word(label: Any) -> str:
    """1.0 is 1, which is what numbers become where some are missing."""
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def demo(original: str | Path, pruned: str | Path, sample: str | Path | None = None) -> Any:
    """A web page (gradio.Blocks) on which both networks look at a recording; `.launch()` serves it.

    Args:
        original: Folder or Hub id of the original network.
        pruned: Of the pruned one.
        sample: A recording to begin with; None = people bring their own.

    Raises:
        DataError: gradio is not installed.
        CheckpointError: A network cannot be loaded.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it reports usage by default
    try:
        import gradio
    except ImportError as error:
        raise DataError(f"the demo needs gradio: pip install 'har_prune[demo]'. ({error})") from error
    networks = {ORIGINAL: HarPipeline.from_pretrained(original), PRUNED: HarPipeline.from_pretrained(pruned)}
    sizes = {name: _weights(Path(folder)) for name, folder in ((ORIGINAL, original), (PRUNED, pruned))}
    facts = networks[PRUNED].facts

    def look(file: str | None, mean_duration_s: float) -> tuple[Any, ...]:
        if file is None:
            raise gradio.Error("Choose a recording first.")
        activities = Activities.usual(len(facts["labels"]), mean_duration_s) if mean_duration_s else None
        try:
            found = compare_networks(networks[ORIGINAL], networks[PRUNED], Path(file), Smoothing(activities))
        except HarPruneError as error:
            raise gradio.Error(str(error)) from error
        return _picture(found), _summary(found, sizes), _said(found), _table(found)

    with gradio.Blocks(title="Original and pruned, side by side", analytics_enabled=False) as page:
        gradio.Markdown(
            "# Original and pruned, side by side\n"
            f"Activities of a recording, by two networks: {', '.join(facts['labels'])}.\n\n"
            f"A recording is a .csv, .parquet or .npy file, or a device's (.cwa, .gt3x, .bin), with the channels "
            f"{', '.join(f'{c} ({u})' for c, u in zip(facts['channels'], facts['units'], strict=True))} and, where it "
            f"has one, a column `time`; without it {facts['sampling_rate_hz']:g} Hz are taken for granted."
        )
        with gradio.Row():
            file = gradio.File(label="Recording", type="filepath")
            with gradio.Column():
                duration = gradio.Slider(
                    0, 60, 0, step=1, label="How long an activity usually lasts, s (0: not smoothed)"
                )
                begin = gradio.Button("Look at the recording", variant="primary")
                own = gradio.Button("Look at the sample", visible=sample is not None)
        said = gradio.Markdown()
        picture = gradio.Image(label="Timelines", type="numpy", show_label=False)
        summary = gradio.Dataframe(label="Networks", interactive=False)
        table = gradio.Dataframe(label="Where they differ", interactive=False)
        results = [picture, summary, said, table]
        begin.click(look, [file, duration], results)
        if sample is not None:
            own.click(lambda seconds: look(str(sample), seconds), [duration], results)
    return page


def _weights(folder: Path) -> float | None:
    """Size of a folder's weights in KiB; None of a Hub id."""
    files = list(folder.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) / 1024 if files else None


def _picture(found: Comparison) -> np.ndarray:
    from matplotlib.image import imread

    with TemporaryDirectory() as folder:
        draw_timelines(found.timelines, Path(folder) / "timelines.png")
        return (imread(Path(folder) / "timelines.png")[..., :3] * 255).astype(np.uint8)


def _summary(found: Comparison, sizes: Mapping[str, float | None]) -> pd.DataFrame:
    rows = [
        {
            "network": name,
            "weights, KiB": "-" if sizes[name] is None else f"{sizes[name]:,.0f}",
            "one window, ms": f"{milliseconds:.2f}",
            "windows": found.windows[name],
        }
        for name, milliseconds in found.latency_ms.items()
    ]
    return pd.DataFrame(rows)


def _said(found: Comparison) -> str:
    faster = found.latency_ms[ORIGINAL] / found.latency_ms[PRUNED]
    agreed = f"They agree {100 * found.agreement:.1f} % of the time in which one names an activity"
    return f"{agreed}; pruned, a window takes {faster:.2f} times less."


def _table(found: Comparison) -> pd.DataFrame:
    rows = [
        (f"{each.start_s:.1f}", f"{each.end_s:.1f}", each.original or _NAMELESS, each.pruned or _NAMELESS)
        for each in found.differences
    ]
    return pd.DataFrame(rows, columns=["start, s", "end, s", ORIGINAL, PRUNED])
