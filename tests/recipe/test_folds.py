"""`test_subject: all`: what is checked before the first fold, and what folds share."""

from dataclasses import replace

import numpy as np
import pytest

from har_prune.data.load import load_data
from har_prune.errors import DataError
from har_prune.recipe import folds as folds_module
from har_prune.recipe import prepare as prepare_module
from har_prune.recipe import steps
from har_prune.recipe.folds import folds_of
from har_prune.recipe.load import load_recipe


@pytest.fixture(scope="module")
def synthetic():
    return load_data("synthetic")


@pytest.fixture
def recipe(root, tmp_path):
    overrides = [
        "data.protocol=loso",
        "data.test_subjects=[]",
        "data.test_subject=all",
        f"output_dir={tmp_path / 'out'}",
    ]
    return load_recipe(root / "recipes" / "quickstart.yaml", overrides)


def _named(data, name):
    subjects = data.subjects.astype("U400")
    subjects[subjects == "s01"] = name
    return replace(data, subjects=subjects)


@pytest.mark.parametrize(
    "name", ["../../../x", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300, "ü" * 120, ".", "..", "", " "]
)
def test_subjects_that_cannot_name_a_folder_are_refused(name, recipe, synthetic):
    data = _named(synthetic, name)
    if name.endswith("\0"):
        pytest.skip("NumPy drops it")
    with pytest.raises(
        DataError, match=r"keeps each fold in a folder fold-SUBJECT.*Rename it in the column 'subject'"
    ):
        folds_of(recipe, data)
    assert not recipe.output_dir.parent.joinpath("x").exists()


@pytest.mark.parametrize("name", ["P 01", "Änne", "left: 2", ".a", "x" * 200])
def test_other_names_are_folders(name, recipe, synthetic):
    folds = folds_of(recipe, _named(synthetic, name))
    assert folds[name][0].output_dir == recipe.output_dir / f"fold-{name}"
    assert folds[name][0].output_dir.parent == recipe.output_dir


def test_folds_share_one_data_set_and_are_split_when_they_start(recipe, synthetic, monkeypatch):
    seen = []
    monkeypatch.setattr(steps, "load_configured", lambda config: seen.append("load") or synthetic)
    monkeypatch.setattr(folds_module, "load_configured", lambda config: pytest.fail("loaded again"))
    monkeypatch.setattr(prepare_module, "load_configured", lambda config: pytest.fail("loaded again"))
    real = prepare_module.make_splits

    def make_splits(data, config, seed):
        seen.append(config.test_subject)
        assert data is synthetic
        return real(data, config, seed)

    monkeypatch.setattr(prepare_module, "make_splits", make_splits)
    monkeypatch.setattr(steps, "keep_summary", lambda *_: None)

    monkeypatch.setattr(steps, "run", lambda *_: seen.append("run"))
    steps.launch_folds(recipe, "command")
    names = np.unique(synthetic.subjects).tolist()
    assert seen == ["load", *(word for name in names for word in (name, "run"))]


def test_auto_is_decided_once_for_all_folds_and_kept(recipe, synthetic, monkeypatch, tmp_path):
    answers = iter(["fp32", "bf16", "bf16"])
    monkeypatch.setattr(steps, "may_be_timed", lambda precision: precision == "auto")
    monkeypatch.setattr(steps, "timed_precision", lambda model, batch: next(answers))
    monkeypatch.setattr(steps, "load_configured", lambda config: synthetic)
    monkeypatch.setattr(steps, "keep_summary", lambda *_: None)
    seen = []
    monkeypatch.setattr(
        steps, "run", lambda fold, made, accelerator, command: seen.append(accelerator.mixed_precision)
    )
    auto = recipe.model_copy(update={"precision": "auto", "num_threads": 1})
    steps.launch_folds(auto, "command")
    assert seen == ["no"] * 12
    first = tmp_path / "out" / "fold-s01"
    first.mkdir(parents=True)
    (first / "precision.txt").write_text("fp32")
    steps.launch_folds(auto, "command")
    assert seen == ["no"] * 24, "an interrupted run goes on with what it began with"


def test_neighbours_calibrate_side_by_side_and_no_row_twice():
    rows = np.arange(1000, 2000)
    chosen = prepare_module.drawn(rows, 203, 0)
    assert len(set(chosen)) == 203
    runs = chosen[:200].reshape(25, 8)
    assert (np.diff(runs, axis=1) > 0).all()
    assert np.ptp(runs, axis=1).max() < 120, "eight of every five rows or so"
    assert (np.diff(runs[:, 0]) < 0).any(), "in random order, as a race needs it"
    assert sorted(prepare_module.drawn(rows, 5000, 0)) == rows.tolist()
    assert not np.array_equal(chosen, prepare_module.drawn(rows, 203, 1))
