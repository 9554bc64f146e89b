"""Protocols: who trains, who validates, who tests. Windows of one subject never stand on two sides."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData
from har_prune.errors import DataError
from har_prune.spelling import did_you_mean


@dataclass(frozen=True)
class Splits:
    """Row indices of each part.

    Sensor windows: all parts but calibration and validation are disjoint by subject. Scores are computed on
    validation subjects, because those neither train nor test; scoring needs no labels.
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
    test = _test_rows(data, config)
    if not len(test) or len(test) == len(data):
        raise DataError(f"protocol {config.protocol!r} leaves {len(test)} of {len(data)} examples to the test.")
    rest = np.setdiff1d(np.arange(len(data)), test)
    generator, fraction = np.random.default_rng(seed), config.validation_fraction
    if data.subjects is None or data.labels is None:
        validation = _validation_rows(rest, fraction, generator)
    else:
        validation = _validation_subjects(data.subjects, data.labels, rest, fraction, generator)
    train = np.setdiff1d(rest, validation)
    splits = Splits(train, validation, validation if data.subjects is not None else train, test)
    _refuse_overlap(data, splits)
    _refuse_unseen_labels(data, splits)
    return splits


def _test_rows(data: LabelledData, config: DataConfig) -> np.ndarray:
    if config.protocol == "official":
        if config.test_split not in data.splits:
            raise DataError(
                f"protocol 'official' needs a split called {config.test_split!r} (test_split); the data set has "
                f"{sorted(set(data.splits.tolist()))}. Name one of them, or choose protocol loso or holdout; for "
                "har-prune score give --test-subject."
            )
        return np.flatnonzero(data.splits == config.test_split)
    if data.subjects is None:
        raise DataError(f"protocol {config.protocol!r} splits by subject and this data set has none: use 'official'.")
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


def _refuse_overlap(data: LabelledData, splits: Splits) -> None:
    """A window that trains must not validate or test, and neither must its neighbours."""
    identity: np.ndarray = np.arange(len(data)) if data.subjects is None else data.subjects
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
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
