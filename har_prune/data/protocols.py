"""Protocols: who trains, who validates, who tests.

Windows of one subject never stand on two sides (loso, holdout, official), or windows of one trial (trial_holdout).
`leaky_window_split` is what papers with too good figures do; it is here to show by how much.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData
from har_prune.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Splits:
    """Row indices of each part.

    Sensor windows: all parts but calibration and validation are disjoint by subject (trial_holdout: by trial). Scores
    are computed on validation subjects, because those neither train nor test; scoring needs no labels.
    Images and texts: calibration is drawn from the training examples, as in arXiv:2405.17081.
    """

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray
    test: np.ndarray


def make_splits(data: LabelledData, config: DataConfig, seed: int) -> Splits:
    """Splits a data set by a protocol.

    Args:
        data: The data set.
        config: Protocol and its subjects.
        seed: Seed of the choice of validation subjects (or rows).

    Raises:
        DataError: A subject does not exist, the protocol does not fit the data, a part is empty, or a label that
            training never saw occurs elsewhere.
    """
    test = _test_rows(data, config, seed)
    if not len(test) or len(test) == len(data):
        raise DataError(f"protocol {config.protocol!r} leaves {len(test)} of {len(data)} examples to the test.")
    rest = np.setdiff1d(np.arange(len(data)), test)
    generator, fraction = np.random.default_rng(seed), config.validation_fraction
    if config.protocol == "trial_holdout" and data.trials is not None and data.labels is not None:
        validation = _whole_trials(data.trials, data.labels, rest, fraction, generator)
    elif data.subjects is None or data.labels is None or config.protocol == "leaky_window_split":
        validation = _validation_rows(rest, fraction, generator)
    else:
        validation = _validation_subjects(data.subjects, data.labels, rest, fraction, generator)
    train = np.setdiff1d(rest, validation)
    splits = Splits(train, validation, validation if data.subjects is not None else train, test)
    _refuse_overlap(_identity(data, config), splits)
    _refuse_unseen_labels(data, splits)
    return splits


def _test_rows(data: LabelledData, config: DataConfig, seed: int) -> np.ndarray:
    if config.protocol == "official":
        if config.test_split not in data.splits:
            raise DataError(
                f"protocol 'official' needs a split called {config.test_split!r} (test_split); the data set has "
                f"{sorted(set(data.splits.tolist()))}. Name one of them, or choose protocol loso or holdout; for "
                "har-prune score give --test-subject."
            )
        return np.flatnonzero(data.splits == config.test_split)
    if data.subjects is None:
        raise DataError(
            f"protocol {config.protocol!r} is for sensor windows with subjects, and this data set has none: use "
            "'official'."
        )
    every, generator = np.arange(len(data)), np.random.default_rng(seed)
    if config.protocol == "leaky_window_split":
        return np.sort(generator.permutation(every)[: round(config.test_fraction * len(data))])
    if config.protocol == "trial_holdout":
        if data.trials is None or data.labels is None:
            raise DataError(
                "protocol 'trial_holdout' needs a column 'trial': prepare the data with `python -m data_prep`."
            )
        return _whole_trials(data.trials, data.labels, every, config.test_fraction, generator)
    wanted = config.test_subjects if config.test_subject is None else (config.test_subject,)
    known = sorted(set(data.subjects.tolist()))
    for subject in wanted:
        if subject not in known:
            raise DataError(
                f"test subject {subject!r} is not in the data (subjects: {', '.join(known)})."
                f"{did_you_mean(subject, known)}"
            )
    return np.flatnonzero(np.isin(data.subjects, wanted))


def _validation_rows(rest: np.ndarray, fraction: float, generator: np.random.Generator) -> np.ndarray:
    return np.sort(generator.permutation(rest)[: max(1, round(fraction * len(rest)))])


def _validation_subjects(
    subject_of: np.ndarray, labels: np.ndarray, rest: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Rows of whole subjects, in random order, until they are the wanted share.

    Passed over: a subject with more than twice that share (too much training data gone), and one that would take the
    last windows of an activity out of training.

    Raises:
        DataError: Nobody can be spared.
    """
    subjects = generator.permutation(sorted(set(subject_of[rest].tolist())))
    chosen: list[str] = []
    for subject in subjects:
        rows = rest[np.isin(subject_of[rest], [*chosen, subject])]
        left = np.setdiff1d(rest, rows)
        if len(rows) > 2 * fraction * len(rest) or set(labels[rest]) != set(labels[left]):
            continue
        chosen.append(subject)
        if len(rows) >= fraction * len(rest):
            break
    if not chosen:
        raise DataError(
            f"no training subject can be spared for validation ({len(subjects)} subjects, validation_fraction="
            f"{fraction}): raise the fraction, or drop rare activities."
        )
    return rest[np.isin(subject_of[rest], chosen)]


def _whole_trials(
    trial_of: np.ndarray, labels: np.ndarray, rows: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Rows of whole trials, drawn until a share of every activity's windows is reached and before it is passed."""
    room = {label: fraction * np.sum(labels[rows] == label) for label in set(labels[rows].tolist())}
    chosen = []
    for trial in generator.permutation(sorted(set(trial_of[rows].tolist()))):
        found, counts = np.unique(labels[rows[trial_of[rows] == trial]], return_counts=True)
        if all(room[label] >= count / 2 for label, count in zip(found.tolist(), counts.tolist(), strict=True)):
            chosen.append(trial)
            for label, count in zip(found.tolist(), counts.tolist(), strict=True):
                room[label] -= count
    return rows[np.isin(trial_of[rows], chosen)]


def _identity(data: LabelledData, config: DataConfig) -> np.ndarray:
    """What must not stand on two sides: person, in trial_holdout the trial, in a leaky split the window alone."""
    if config.protocol == "trial_holdout" and data.trials is not None:
        return data.trials
    if data.subjects is None or config.protocol == "leaky_window_split":
        return np.arange(len(data))
    return data.subjects


def _refuse_overlap(identity: np.ndarray, splits: Splits) -> None:
    """A window that trains must not validate, calibrate or test, and neither must its neighbours."""
    pairs = [("train", "validation"), ("train", "test"), ("validation", "test"), ("calibration", "test")]
    for first, second in pairs:
        shared = set(identity[getattr(splits, first)].tolist()) & set(identity[getattr(splits, second)].tolist())
        if shared:
            raise DataError(f"{first} and {second} share {sorted(shared)[:5]}: results would not be honest.")


def _refuse_unseen_labels(data: LabelledData, splits: Splits) -> None:
    if data.labels is None:
        return
    seen = set(data.labels[splits.train].tolist())
    for part in ("validation", "test"):
        rows = getattr(splits, part)
        unseen = sorted(set(data.labels[rows].tolist()) - seen)
        if unseen:
            where = _whose(data, rows[np.isin(data.labels[rows], unseen)])
            raise DataError(
                f"label {data.label_names[unseen[0]]!r} occurs in the {part} data{where} and never in training. "
                "Leave that activity out when you prepare the data (--drop), or choose other subjects."
            )


def _whose(data: LabelledData, rows: Iterable[int]) -> str:
    if data.subjects is None:
        return ""
    return f" (subjects {', '.join(sorted(set(data.subjects[list(rows)].tolist())))})"
