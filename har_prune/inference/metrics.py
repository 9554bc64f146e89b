"""How good a timeline is: by time, and by segments.

Sources: segment F1 of Lea et al. 2017, "Temporal convolutional networks for action segmentation and detection"; what
goes wrong with events as in Ward, Lukowicz and Gellersen 2011, "Performance metrics for activity recognition".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from har_prune.errors import DataError
from har_prune.inference.smoothing import Segment, joined

OVERLAPS = (0.1, 0.25, 0.5)


@dataclass(frozen=True)
class TimelineMetrics:
    """A timeline beside what was done.

    Args:
        frame_accuracy: Share of the time with an activity that has the right label, 0 to 1.
        told: Share of that time that has a label at all, 0 to 1.
        segment_f1: By intersection over union that a segment of the same label must have with a true one.
        insertions: Segments that touch no true one of their label.
        deletions: True segments that no segment of their label touches.
        fragmentations: True segments that several segments of their label touch.
        delay_s: Median time from the start of a true segment to the first moment that it is recognised, over those
            that are; None where none is.
    """

    frame_accuracy: float
    told: float
    segment_f1: dict[float, float]
    insertions: int
    deletions: int
    fragmentations: int
    delay_s: float | None


def compare_timelines(true: Sequence[Segment], found: Sequence[Segment]) -> TimelineMetrics:
    """Measures a timeline.

    Args:
        true: What was done; time without a label does not count.
        found: What was recognised.

    Raises:
        DataError: Nothing was done.
    """
    real = [segment for segment in joined(true) if segment.label is not None]
    whole = sum(segment.end_s - segment.start_s for segment in real)
    if not whole:
        raise DataError("the true timeline has no activity.")
    said = [segment for segment in joined(found) if segment.label is not None]
    touching = [[_shared(mine, other) for other in said] for mine in real]
    right, told, hits = 0.0, 0.0, []
    for mine, shares in zip(real, touching, strict=True):
        hits.append([n for n, share in enumerate(shares) if share > 0 and said[n].label == mine.label])
        right += sum(shares[n] for n in hits[-1])
        told += sum(shares)
    delays = [max(0.0, said[own[0]].start_s - mine.start_s) for mine, own in zip(real, hits, strict=True) if own]
    return TimelineMetrics(
        frame_accuracy=right / whole,
        told=told / whole,
        segment_f1={least: _f1(real, said, least) for least in OVERLAPS},
        insertions=len(said) - len({n for own in hits for n in own}),
        deletions=sum(not own for own in hits),
        fragmentations=sum(len(own) > 1 for own in hits),
        delay_s=median(delays) if delays else None,
    )


def _shared(a: Segment, b: Segment) -> float:
    return max(0.0, min(a.end_s, b.end_s) - max(a.start_s, b.start_s))


def _f1(real: list[Segment], said: list[Segment], least: float) -> float:
    """A true segment counts once, however many match it."""
    taken: set[int] = set()
    for segment in said:
        unions = [
            (_shared(segment, other) / (segment.end_s - segment.start_s + other.end_s - other.start_s
                                        - _shared(segment, other)), number)
            for number, other in enumerate(real) if other.label == segment.label
        ]  # fmt: skip
        overlap, number = max(unions, default=(0.0, -1))
        if overlap >= least and number not in taken:
            taken.add(number)
    return 2 * len(taken) / (len(real) + len(said)) if real or said else 0.0
