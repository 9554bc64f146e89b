"""A timeline as a picture."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from har_prune.inference.smoothing import Segment
from har_prune.runtime.files import whole_file

_HOUR, _MINUTE = 3600.0, 60.0


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # what stands between two of them matplotlib takes for mathematics


def draw_timelines(timelines: Mapping[str, tuple[Segment, ...]], path: Path) -> None:
    """Draws activities over time, a panel for each timeline, to a .png or .svg file.

    Bars are darker where the network is surer; what has no activity is grey, over all activities.

    Args:
        timelines: Segments by what stands above the panel.
        path: File to write.
    """
    import matplotlib
    from matplotlib.figure import Figure

    labels = sorted({s.label for segments in timelines.values() for s in segments if s.label is not None})
    last = max((segment.end_s for segments in timelines.values() for segment in segments), default=1.0)
    unit, name = (_HOUR, "hours") if last > 3 * _HOUR else (_MINUTE, "minutes") if last > 3 * _MINUTE else (1.0, "s")
    figure = Figure(figsize=(10, len(timelines) * (0.8 + 0.28 * max(1, len(labels)))), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(timelines), 1, sharex=True))
    colours = matplotlib.colormaps["tab10" if len(labels) <= 10 else "tab20"]
    for axis, (title, segments) in zip(panels, timelines.items(), strict=True):
        for segment in segments:
            span = [(segment.start_s / unit, (segment.end_s - segment.start_s) / unit)]
            if segment.label is None:
                axis.broken_barh(span, (-0.5, max(1, len(labels))), color="0.85")
                continue
            row = labels.index(segment.label)
            sure = 1.0 if segment.probability is None else 0.3 + 0.7 * segment.probability
            axis.broken_barh(span, (row - 0.4, 0.8), color=colours(row % colours.N), alpha=min(1.0, sure))
        axis.set_yticks(range(len(labels)), [_plain(label) for label in labels])
        axis.set_ylim(max(1, len(labels)) - 0.5, -0.5)
        axis.set_title(_plain(title), loc="left", fontsize="medium")
        axis.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlim(0, last / unit)
    panels[-1].set_xlabel(name)
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix.lstrip(".").lower(), dpi=120)
