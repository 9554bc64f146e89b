"""Protocols: who trains, who validates, who tests.

Windows of one subject never stand on two sides (loso, holdout, official), or windows of one trial (trial_holdout).
`leaky_window_split` is what papers with too good figures do; it is here to show by how much.
"""

from dataclasses import dataclass

import numpy as np

from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData
from har_prune.errors import DataError, did_you_mean

_VALIDATION_SPLITS = ("validation", "valid", "val", "dev")
_NAMED = 10  # subjects that a message lists


@dataclass(frozen=True)
class Splits:
    """Row indices of each part.

    Sensor windows: all parts but calibration and validation are disjoint by subject (trial_holdout: by trial). Scores
    are computed on validation subjects, because those neither train nor test; scoring needs no labels.
    Images and texts: calibration is drawn from the training examples, as in arXiv:2405.17081.

    `validation_from` says in words where the validation rows come from; `is_drawn` whether they were taken out of the
    rows that would have trained, and not out of a split of their own.
    """

    train: np.ndarray
    validation: np.ndarray
    calibration: np.ndarray
    test: np.ndarray
    validation_from: str
    is_drawn: bool


def make_splits(data: LabelledData, config: DataConfig, seed: int) -> Splits:
    """Splits a data set by a protocol.

    Args:
        data: The data set.
        config: Protocol and its subjects.
        seed: Seed of the choice of validation subjects (or rows). Who tests does not follow from it: `evaluate` knows
            no recipe, and would test on what another seed trained on.

    Raises:
        DataError: A subject or split does not exist, the protocol does not fit the data, a part is empty, or a label
            that training never saw occurs elsewhere.
    """
    test = _test_rows(data, config)
    if not len(test) or len(test) == len(data):
        raise DataError(f"protocol {config.protocol!r} leaves {len(test)} of {len(data)} examples to the test.")
    own, kept = _own_validation(data, config), _kept_for_testing(data, config)
    unused = np.flatnonzero(data.splits == "test") if kept else test
    if own is None:
        validation, words = _drawn_validation(data, config, _all_but(len(data), test, unused), seed)
    else:
        validation, words = np.flatnonzero(data.splits == own), f"the data set's own split {own!r}"
    if not len(validation):
        raise DataError(
            f"validation_fraction={config.validation_fraction:g} leaves no whole trial to validate: each is larger "
            "than twice that share. Raise it, or cut recordings into shorter trials."
        )
    train = _all_but(len(data), test, validation, unused)
    if kept:
        words += "; split 'test' is left out: whoever evaluates later tests on it"
    if not len(train):
        raise DataError(f"test split {config.test_split!r} and validation split {own!r} leave nothing to train on.")
    calibration = validation if data.subjects is not None else train
    splits = Splits(train, validation, calibration, test, words, own is None)
    _refuse_overlap(_identity(data, config), splits)
    _refuse_unseen_labels(data, splits)
    return splits


def check_folds(data: LabelledData, config: DataConfig) -> None:
    """Refuses what `make_splits` would refuse for any subject's fold, without splitting 2,000 times.

    Raises:
        DataError: Nobody else performs an activity of a subject, or no other subject can be spared for validation.
    """
    names, subject_of = data.subject_codes
    counts = _label_counts(subject_of, data.labels, len(names))
    total, fraction = counts.sum(axis=0), config.validation_fraction
    for subject, own in enumerate(counts):
        rest = total - own
        if unseen := np.flatnonzero((own > 0) & (rest == 0)).tolist():
            raise DataError(_unseen(data.label_names[unseen[0]], "test", f" (subjects {names[subject]})"))
        spared = (counts.sum(axis=1) <= 2 * fraction * rest.sum()) & ~((rest > 0) & (counts == rest)).any(axis=1)
        if not np.delete(spared, subject).any():
            raise DataError(
                _nobody_spared(np.delete(counts, subject, 0), fraction, f" beside test subject {names[subject]}")
            )


def _all_but(count: int, *parts: np.ndarray) -> np.ndarray:
    """The rows of a data set that are in none of the parts, in order."""
    left = np.ones(count, dtype=bool)
    for rows in parts:
        left[rows] = False
    return np.flatnonzero(left)


def _label_counts(group_of: np.ndarray, labels: np.ndarray | None, groups: int) -> np.ndarray:
    """How many rows each group has of each label, [groups, labels]."""
    classes = 1 if labels is None else int(labels.max()) + 1
    codes = group_of if labels is None else group_of * classes + labels
    return np.bincount(codes, minlength=groups * classes).reshape(groups, classes)


def _test_rows(data: LabelledData, config: DataConfig) -> np.ndarray:
    if config.protocol == "official":
        if config.test_split not in data.splits:
            raise DataError(
                f"protocol 'official' needs a split called {config.test_split!r} (test_split); the data set has "
                f"{np.unique(data.splits).tolist()}. Name one of them, or choose protocol loso or holdout; for "
                "har-prune score give --test-subject."
            )
        return np.flatnonzero(data.splits == config.test_split)
    if data.subjects is None:
        raise DataError(
            f"protocol {config.protocol!r} is for sensor windows with subjects, and this data set has none: use "
            "'official'."
        )
    every, generator = np.arange(len(data)), np.random.default_rng(0)
    if config.protocol == "leaky_window_split":
        return np.sort(generator.permutation(every)[: round(config.test_fraction * len(data))])
    if config.protocol == "trial_holdout":
        if data.trials is None or data.labels is None:
            raise DataError(
                "protocol 'trial_holdout' needs a column 'trial': prepare the data with `python -m data_prep`."
            )
        return _whole_trials(data.trials, data.labels, every, config.test_fraction, generator)
    wanted = config.test_subjects if config.test_subject is None else (config.test_subject,)
    names, subject_of = data.subject_codes
    known = names.tolist()
    for subject in wanted:
        if subject not in known:
            raise DataError(
                f"test subject {subject!r} is not in the data (subjects: {', '.join(known)})."
                f"{did_you_mean(subject, known)}"
            )
    return np.flatnonzero(np.isin(names, wanted)[subject_of])


def _own_validation(data: LabelledData, config: DataConfig) -> str | None:
    """The split that the data set itself keeps for validation."""
    if config.protocol != "official":
        return None
    known, named = np.unique(data.splits).tolist(), config.validation_split
    if named is not None and named not in known:
        raise DataError(
            f"validation_split: there is no split {named!r}; the data set has {known}.{did_you_mean(named, known)} "
            "Name one of them, or leave validation_split out."
        )
    others = [name for name in known if name != config.test_split]
    if len(others) == 1 and named is None:
        return None  # whatever it is called, it is all there is to train on
    return named or next((name for name in _VALIDATION_SPLITS if name in others), None)


def _kept_for_testing(data: LabelledData, config: DataConfig) -> bool:
    """Whether the data set has a split "test" that another one tests in place of: it does not train."""
    names = set(np.unique(data.splits).tolist())
    unused = config.protocol == "official" and "test" in names - {config.test_split, config.validation_split}
    return unused and names > {"test", config.test_split}  # else it is all there is to train on


def _drawn_validation(data: LabelledData, config: DataConfig, rest: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """A share of the rows that would train, and in words whose they are."""
    fraction, generator = config.validation_fraction, np.random.default_rng(seed)
    if config.protocol == "trial_holdout" and data.trials is not None and data.labels is not None:
        rows, whose = _whole_trials(data.trials, data.labels, rest, fraction, generator), "windows: whole trials"
    elif data.subjects is None or data.labels is None or config.protocol == "leaky_window_split":
        rows = np.sort(generator.permutation(rest)[: max(1, round(fraction * len(rest)))])
        whose = "examples, drawn at random"
    else:
        names, subject_of = data.subject_codes
        counts = _label_counts(subject_of[rest], data.labels[rest], len(names))
        if config.protocol == "loso":
            order = _rotated(counts, names.tolist().index(config.test_subject) + seed)
        else:
            order = generator.permutation(np.flatnonzero(counts.any(axis=1))).tolist()
        chosen = _validation_subjects(counts, fraction, order)
        rows, whose = rest[np.isin(subject_of[rest], chosen)], f"windows: subjects {_listed(names[chosen].tolist())}"
    return rows, f"{100 * len(rows) / len(rest):.0f} % of the training {whose}"


def _rotated(counts: np.ndarray, turn: int) -> list[int]:
    """Subjects in the order in which they are asked to validate a fold; the next fold begins with the next one.

    Those who perform most of the activities come first: validation on a few activities chooses for a few.

    Args:
        counts: Windows of each subject and label, [subjects, labels]; those of the subject that tests are 0.
        turn: Number of the fold.
    """
    subjects = np.flatnonzero(counts.any(axis=1))
    coverage = (counts[subjects] > 0).sum(axis=1) / (counts.sum(axis=0) > 0).sum()
    covering = coverage >= min(0.9, float(np.median(coverage)))
    first, others = subjects[covering].tolist(), subjects[~covering].tolist()
    return [group[(turn + place) % len(group)] for group in (first, others) for place in range(len(group))]


def _validation_subjects(counts: np.ndarray, fraction: float, order: list[int]) -> list[int]:
    """The first subjects of an order, until their rows are the wanted share.

    Passed over: a subject with more than twice that share (too much training data gone), and one that would take the
    last windows of an activity out of training.

    Args:
        counts: Windows of each subject and label, [subjects, labels]; those of a subject that tests are 0.
        fraction: The wanted share of all windows.
        order: Subjects that may validate.

    Raises:
        DataError: Nobody can be spared.
    """
    total = counts.sum(axis=0)
    chosen: list[int] = []
    taken = np.zeros_like(total)
    for subject in order:
        more = taken + counts[subject]
        if more.sum() > 2 * fraction * total.sum() or ((total > 0) & (more == total)).any():
            continue
        chosen.append(subject)
        taken = more
        if taken.sum() >= fraction * total.sum():
            break
    if not chosen:
        raise DataError(_nobody_spared(counts[order], fraction))
    return sorted(chosen)


def _nobody_spared(counts: np.ndarray, fraction: float, beside: str = "") -> str:
    """What to do about it, by the windows of each subject who may train and each label, [subjects, labels]."""
    total = counts.sum(axis=0)
    missed = ~((total > 0) & (counts == total)).any(axis=1)  # an activity is left without them
    advice = "each of them has all there is of an activity: drop rare activities."
    if missed.any():
        least = max(1, int(100 * counts[missed].sum(axis=1).min() / total.sum()))
        advice = (
            f"the smallest of those who can be missed has {least} % of the windows: validation_fraction={least / 100}."
        )
    return (
        f"no training subject can be spared for validation{beside} ({len(counts)} subjects, validation_fraction="
        f"{fraction}); {advice}"
    )


def _whole_trials(
    trial_of: np.ndarray, labels: np.ndarray, rows: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Rows of whole trials, drawn until a share of every activity's windows is reached and before it is passed."""
    names, codes = np.unique(trial_of[rows], return_inverse=True)
    counts = _label_counts(codes, labels[rows], len(names))
    room, chosen = fraction * counts.sum(axis=0), np.zeros(len(names), dtype=bool)
    for trial in generator.permutation(len(names)):
        chosen[trial] = ((counts[trial] == 0) | (room >= counts[trial] / 2)).all()
        room -= counts[trial] * chosen[trial]
    return rows[chosen[codes]]


def _identity(data: LabelledData, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """What must not stand on two sides: person, in trial_holdout the trial, in a leaky split the window alone.

    Returns:
        Its names, and for each row the index of its own, [N].
    """
    if config.protocol == "trial_holdout" and data.trials is not None:
        return np.unique(data.trials, return_inverse=True)
    if data.subjects is None or config.protocol == "leaky_window_split":
        return np.arange(len(data)), np.arange(len(data))
    return data.subject_codes


def _refuse_overlap(identity: tuple[np.ndarray, np.ndarray], splits: Splits) -> None:
    """A window that trains must not validate, calibrate or test, and neither must its neighbours."""
    names, code_of = identity
    for first, second in [("train", "validation"), ("train", "test"), ("validation", "test"), ("calibration", "test")]:
        one, other = (
            np.bincount(code_of[getattr(splits, part)], minlength=len(names)) > 0 for part in (first, second)
        )
        if (one & other).any():
            raise DataError(
                f"{first} and {second} share {names[one & other][:5].tolist()}: results would not be honest. Choose "
                "protocol loso or holdout, or prepare the data with other splits."
            )


def _refuse_unseen_labels(data: LabelledData, splits: Splits) -> None:
    if data.labels is None:
        return
    seen = np.bincount(data.labels[splits.train], minlength=len(data.label_names)) > 0
    for part in ("validation", "test"):
        rows = getattr(splits, part)
        if len(rows := rows[~seen[data.labels[rows]]]):
            label = data.labels[rows].min()
            raise DataError(_unseen(data.label_names[label], part, _whose(data, rows)))


def _unseen(name: str, part: str, whose: str) -> str:
    return (
        f"label {name!r} occurs in the {part} data{whose} and never in training. "
        "Leave that activity out when you prepare the data (--drop), or choose other subjects."
    )


def _whose(data: LabelledData, rows: np.ndarray) -> str:
    return "" if data.subjects is None else f" (subjects {_listed(np.unique(data.subjects[rows]).tolist())})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
