"""Who validates: the split that a data set keeps for it, or a share of the training data."""

import numpy as np
import pytest
from pydantic import ValidationError

from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData
from har_prune.data.protocols import check_folds, make_splits
from har_prune.errors import DataError


def _texts(**counts):
    splits = np.repeat(list(counts), list(counts.values()))
    labels = np.arange(len(splits)) % 2
    return LabelledData("text", np.full(len(splits), "a", dtype=object), labels, ["a", "b"], splits)


def _sizes(splits):
    return [len(getattr(splits, part)) for part in ("train", "validation", "test")]


def _config(**fields):
    return DataConfig(name_or_path="x", **fields)


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_a_split_called_validation_validates(name):
    data = _texts(train=1147, **{name: 250}, test=400)
    splits = make_splits(data, _config(), 0)
    assert _sizes(splits) == [1147, 250, 400]
    assert set(data.splits[splits.validation]) == {name}
    assert splits.validation_from == f"the data set's own split {name!r}"
    assert not splits.is_drawn
    assert np.array_equal(splits.calibration, splits.train)


def test_without_one_a_share_is_drawn():
    splits = make_splits(_texts(train=1000, test=400), _config(), 0)
    assert _sizes(splits) == [850, 150, 400]
    assert splits.is_drawn
    assert splits.validation_from == "15 % of the training examples, drawn at random"
    # The split that tests cannot validate, and what alone is left has to train.
    splits = make_splits(_texts(train=1000, validation=400), _config(test_split="validation"), 0)
    assert _sizes(splits) == [850, 150, 400]
    assert _sizes(make_splits(_texts(validation=1000, test=400), _config(), 0)) == [850, 150, 400]


def test_validation_split_names_another_and_all_others_train():
    data = _texts(train=100, validation=20, extra=30, test=40)
    splits = make_splits(data, _config(validation_split="extra"), 0)
    assert _sizes(splits) == [120, 30, 40]
    assert splits.validation_from == "the data set's own split 'extra'"
    with pytest.raises(DataError, match=r"no split 'extr'; the data set has \[.*\]\. Did you mean 'extra'"):
        make_splits(data, _config(validation_split="extr"), 0)
    with pytest.raises(DataError, match="leave nothing to train on"):
        make_splits(_texts(dev=10, test=10), _config(validation_split="dev"), 0)
    with pytest.raises(ValidationError, match="name the same split"):
        _config(validation_split="test")
    with pytest.raises(ValidationError, match="goes with protocol: official"):
        _config(validation_split="dev", protocol="loso", test_subject="s1")


def test_a_split_for_testing_that_does_not_test_does_not_train():
    """Or `evaluate`, which knows no recipe, would test on what trained."""
    data = _texts(train=100, validation=20, test=40)
    splits = make_splits(data, _config(test_split="validation"), 0)
    assert _sizes(splits) == [85, 15, 20]
    used = np.concatenate([splits.train, splits.validation, splits.calibration, splits.test])
    assert "test" not in data.splits[used]
    assert splits.validation_from.endswith("; split 'test' is left out: whoever evaluates later tests on it")
    data = _texts(train=100, dev=20, test=40, extra=7)
    assert _sizes(make_splits(data, _config(test_split="extra", validation_split="dev"), 0)) == [100, 20, 7]
    assert _sizes(make_splits(data, _config(test_split="extra", validation_split="test"), 0)) == [120, 40, 7]


def _windows(subjects, labels, splits=None):
    rows = len(labels)
    splits = np.full(rows, "train") if splits is None else np.asarray(splits)
    names = [str(i) for i in range(int(max(labels)) + 1)]
    values = np.zeros((rows, 4, 1), np.float32)
    return LabelledData("sensor", values, np.asarray(labels), names, splits, np.asarray(subjects))


def test_validation_subjects_are_named():
    data = _windows(np.repeat([f"s{i}" for i in range(10)], 10), [0, 1] * 50)
    splits = make_splits(data, _config(protocol="loso", test_subject="s0"), 0)
    chosen = sorted(set(data.subjects[splits.validation]))
    assert splits.validation_from == f"22 % of the training windows: subjects {', '.join(chosen)}"


def test_a_validation_split_that_shares_subjects_with_training_is_refused():
    data = _windows(["s1"] * 4 + ["s2"] * 4 + ["s1"] * 2 + ["s3"] * 4, [0, 1] * 7,
                    ["train"] * 8 + ["validation"] * 2 + ["test"] * 4)  # fmt: skip
    with pytest.raises(DataError, match=r"train and validation share \['s1'\].*Choose protocol loso or holdout"):
        make_splits(data, _config(), 0)


def test_a_hundred_classes_are_split_as_well():
    data = _windows(np.repeat([f"s{i}" for i in range(10)], 100), np.tile(np.arange(100), 10))
    assert _sizes(make_splits(data, _config(protocol="loso", test_subject="s0"), 0)) == [700, 200, 100]
    check_folds(data, _config(protocol="loso", test_subject="all"))


def _is_refused(function, *arguments):
    try:
        function(*arguments)
    except DataError:
        return True
    return False


def test_folds_are_refused_exactly_where_one_cannot_be_split():
    generator, refused = np.random.default_rng(0), 0
    for _ in range(60):
        rows, people = int(generator.integers(12, 60)), int(generator.integers(2, 7))
        subjects = np.asarray([f"s{i}" for i in generator.integers(people, size=rows)])
        data = _windows(subjects, np.minimum(generator.geometric(0.5, size=rows), 4) - 1)
        config = _config(protocol="loso", test_subject="all", validation_fraction=float(generator.uniform(0.05, 0.6)))
        folds = [config.model_copy(update={"test_subject": name}) for name in np.unique(subjects).tolist()]
        expected = any(_is_refused(make_splits, data, fold, 0) for fold in folds)
        assert _is_refused(check_folds, data, config) == expected
        refused += expected
    assert 5 < refused < 55
