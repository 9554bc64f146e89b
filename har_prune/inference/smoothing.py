"""Labels that follow each other: a hidden Markov model over activities, shortest durations, rejection.

Source: Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition".
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from har_prune.errors import DataError

_SAME_S = 1e-6  # between two that touch
_LEAST = 1e-6  # of a probability: a network that is sure may be wrong


@dataclass(frozen=True)
class Segment:
    """A stretch of time with one activity.

    Args:
        start_s: When it starts, in seconds from the first sample.
        end_s: When it ends.
        label: The activity; None where there is too little data to tell, or no class is likely enough.
        probability: Mean of what the network gives it, or its likeliest class where that is rejected; None without
            data.
    """

    start_s: float
    end_s: float
    label: str | None
    probability: float | None


@dataclass(frozen=True)
class Activities:
    """How activities follow each other, in seconds: durations are exponential, and changes have probabilities.

    Args:
        mean_duration_s: How long each class lasts, [K].
        changes: Probability of each class [row] to be followed by another [column], [K, K]; rows sum to 1 and the
            diagonal is 0.

    Raises:
        DataError: Something of this is not so.
    """

    mean_duration_s: np.ndarray
    changes: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.mean_duration_s)
        rows = np.asarray(self.changes).sum(1) if np.ndim(self.changes) == 2 else np.zeros(0)
        if np.shape(self.changes) != (count, count) or not np.allclose(rows, 1) or np.diag(self.changes).any():
            raise DataError(f"changes must be [{count}, {count}], rows of sum 1 with 0 on the diagonal.")
        if not (np.asarray(self.mean_duration_s) > 0).all() or (np.asarray(self.changes) < 0).any():
            raise DataError("mean_duration_s must be above 0 for every class, and no probability below 0.")

    def check(self, classes: int) -> None:
        """Refuses those of another number of classes.

        Raises:
            DataError: They are.
        """
        if len(self.mean_duration_s) != classes:
            raise DataError(f"smoothing knows {len(self.mean_duration_s)} activities, and the network {classes}.")

    @classmethod
    def usual(cls, classes: int, mean_duration_s: float) -> "Activities":
        """All classes last as long, and each may follow each."""
        if classes < 2:
            raise DataError("one class has nothing to change to.")
        changes = (np.ones((classes, classes)) - np.eye(classes)) / (classes - 1)
        return cls(np.full(classes, float(mean_duration_s)), changes)

    @classmethod
    def counted(cls, sequences: Iterable[Sequence[tuple[int, float]]], classes: int) -> "Activities":
        """Counts them in what training subjects did.

        Each change and each class is counted once more than it was seen, as a change nobody made may still come.

        Args:
            sequences: (class, seconds) one after the other, of each recording.
            classes: How many classes there are.

        Raises:
            DataError: There is nothing to count.
        """
        seconds, times, changes = np.zeros(classes), np.zeros(classes), np.ones((classes, classes))
        for sequence in sequences:
            before = None
            for label, duration in sequence:
                if not 0 <= label < classes:
                    raise DataError(f"class {label} of a sequence is none of the {classes}, which count from 0.")
                seconds[label] += duration
                if label != before:
                    times[label] += 1
                    if before is not None:
                        changes[before, label] += 1
                before = label
        if not times.any() or classes < 2:
            raise DataError("there are no activities to count.")
        usual = seconds.sum() / times.sum()
        np.fill_diagonal(changes, 0)
        return cls((seconds + usual) / (times + 1), changes / changes.sum(1, keepdims=True))

    def over(self, seconds: float) -> np.ndarray:
        """Probability of each class to be each class after some seconds, to first order in changes, [K, K]."""
        stays = np.exp(-seconds / self.mean_duration_s)
        return np.diag(stays) + (1 - stays)[:, None] * self.changes


@dataclass(frozen=True)
class Smoothing:
    """How labels that follow each other are settled; each part is left out where it is None.

    Args:
        activities: The hidden Markov model: Viterbi over a recording, the forward filter in a stream.
        shortest_s: Shorter activities are given to the neighbour that is likelier there.
        least_probability: Below it nothing is said, in [0, 1].

    Raises:
        DataError: A number is none of these.
    """

    activities: Activities | None = None
    shortest_s: float | None = None
    least_probability: float | None = None

    def __post_init__(self) -> None:
        if self.shortest_s is not None and not 0 <= self.shortest_s < math.inf:
            raise DataError(f"shortest_s is a duration in seconds, 0 or more; it is {self.shortest_s}.")
        if self.least_probability is not None and not 0 <= self.least_probability <= 1:
            raise DataError(f"least_probability is between 0 and 1; it is {self.least_probability}.")


def viterbi(chances: np.ndarray, seconds: np.ndarray, activities: Activities, shares: np.ndarray) -> np.ndarray:
    """The likeliest sequence of classes, [P].

    Args:
        chances: What the network gives each class in each piece, [P, K].
        seconds: Length of each piece, [P].
        activities: How classes follow each other.
        shares: Of what each piece says that its neighbours do not say as well, [P]: windows that overlap repeat each
            other.
    """
    scores = shares[:, None] * np.log(np.maximum(chances, _LEAST))
    best, origin = scores[0], []
    for piece in range(1, len(scores)):
        ways = best[:, None] + np.log(np.maximum(activities.over((seconds[piece - 1] + seconds[piece]) / 2), 1e-300))
        origin.append(ways.argmax(0))
        best = ways.max(0) + scores[piece]
    path = [int(best.argmax())]
    for before in reversed(origin):
        path.append(int(before[path[-1]]))
    return np.array(path[::-1])


class ForwardFilter:
    """What a stream knows of the activity now: no delay, and nothing that comes later.

    Args:
        activities: How classes follow each other.
        share: Of what a window says that the one before did not say as well.
    """

    def __init__(self, activities: Activities, share: float = 1.0):
        self.activities, self.share, self._belief = activities, share, np.empty(0)

    def step(self, chances: np.ndarray, seconds: float) -> np.ndarray:
        """Probabilities [K] of the classes, given those of a window and the seconds since the one before."""
        ahead = self._belief @ self.activities.over(seconds) if len(self._belief) else np.ones(len(chances))
        belief = ahead * np.maximum(chances, _LEAST) ** self.share
        self._belief = belief / belief.sum()
        return self._belief

    def forget(self) -> None:
        """Behind a gap nothing is known."""
        self._belief = np.empty(0)


def decided(
    chances: np.ndarray, seconds: np.ndarray, smoothing: Smoothing | None, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The class of each piece [P] and what the network gives it [P]; see `viterbi`."""
    activities = smoothing.activities if smoothing else None
    if activities is not None:
        activities.check(chances.shape[1])
    classes = chances.argmax(1) if activities is None else viterbi(chances, seconds, activities, shares)
    if smoothing is not None and smoothing.shortest_s is not None:
        classes = _without_short(classes, chances, seconds, smoothing.shortest_s)
    return classes, chances[np.arange(len(chances)), classes]


def _without_short(classes: np.ndarray, chances: np.ndarray, seconds: np.ndarray, shortest_s: float) -> np.ndarray:
    """The shortest activity goes first, to the neighbour that is likelier there; a whole stretch of one stays."""
    classes = classes.copy()
    while True:
        edges = [0, *(np.flatnonzero(classes[1:] != classes[:-1]) + 1).tolist(), len(classes)]
        runs = [(float(seconds[first:stop].sum()), first, stop) for first, stop in pairwise(edges)]
        length, first, stop = min(runs)
        if len(runs) == 1 or length >= shortest_s - 1e-9:
            return classes
        beside = [classes[place] for place in (first - 1, stop) if 0 <= place < len(classes)]
        classes[first:stop] = max(beside, key=lambda label: float(chances[first:stop, label].mean()))


def settled(segments: Iterable[Segment], smoothing: Smoothing | None) -> list[Segment]:
    """Neighbours of one label as one; unlikely ones without a label."""
    least = smoothing.least_probability if smoothing else None
    return [
        replace(segment, label=None) if least is not None and segment.label and (segment.probability or 0) < least
        else segment
        for segment in joined(segments)
    ]  # fmt: skip


def joined(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Neighbours of one label as one, its probability the mean over time."""
    waiting: Segment | None = None
    for segment in segments:
        if waiting is not None and waiting.label == segment.label and segment.start_s - waiting.end_s < _SAME_S:
            spans = (waiting.end_s - waiting.start_s, segment.end_s - segment.start_s)
            mean = None
            if waiting.probability is not None and segment.probability is not None:
                mean = (waiting.probability * spans[0] + segment.probability * spans[1]) / (sum(spans) or 1.0)
            waiting = Segment(waiting.start_s, segment.end_s, segment.label, mean)
            continue
        if waiting is not None:
            yield waiting
        waiting = segment
    if waiting is not None:
        yield waiting
