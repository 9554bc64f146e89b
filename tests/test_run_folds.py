"""Every subject in turn: one command, side by side, in several processes; what cannot be is refused."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import tiny_folds
from console import refused, run_recipe
from datasets import Dataset
from safetensors.torch import load_file

from data_prep.hub_folder import new_folder, write
from data_prep.readers import synthetic
from data_prep.recordings import Windowing
from har_prune.errors import ProcessGroupError
from har_prune.recipe import folds, parallel
from har_prune.recipe.folds import folds_of
from har_prune.recipe.load import load_recipe
from har_prune.recipe.parallel import run_side_by_side


@pytest.fixture(scope="module")
def quickstart(root):
    return root / "recipes" / "quickstart.yaml"


@pytest.fixture
def four_subjects(tmp_path):
    return tiny_folds.four_subjects(tmp_path / "four")


def test_all_folds_are_one_command(quickstart, four_subjects, tmp_path):
    out = tmp_path / "out"
    result = run_recipe(quickstart, out, *four_subjects)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *(f"fold-s0{n}" for n in range(1, 5)), "loso.json", "loso.md", "confusion.png", "data.json",
    }  # fmt: skip
    summary = json.loads((out / "loso.json").read_text())
    found = []
    for subject, row in summary["subjects"].items():
        history = json.loads((out / f"fold-{subject}" / "history.json").read_text())
        assert history["recipe"]["data"]["test_subject"] == subject
        quality = [history["iterations"][step]["metrics"]["test"] for step in (0, history["selected"])]
        assert [row[network]["accuracy"] for network in ("original", "pruned")] == [q["accuracy"] for q in quality]
        found.append(quality[0]["accuracy"])
        assert sum(map(sum, quality[0]["confusion"])) == row["samples"]
    accuracy = summary["overall"]["original"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(np.mean(found))
    assert accuracy["std"] == pytest.approx(np.std(found, ddof=1))
    assert accuracy["ci95"] == pytest.approx(3.182446 * np.std(found, ddof=1) / 2, rel=1e-5), "Student's t, 3 degrees"
    assert sum(map(sum, summary["confusion"]["pruned"])) == sum(r["samples"] for r in summary["subjects"].values())
    report, change = (out / "loso.md").read_text(), summary["pruned_against"]["original"]
    assert "| s03 |" in report
    assert f"| original | {100 * change['mean']:+.2f} | ± {100 * change['ci95']:.2f} | {change['p']:.3f} |" in report
    assert all(row["validated_by"][0] for row in summary["subjects"].values())
    assert (out / "confusion.png").read_bytes().startswith(b"\x89PNG")

    # A fold that was interrupted is run again, the others are not.
    before = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}
    for name in ("pruned", "iteration-001", "history.json"):
        path = out / "fold-s02" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = run_recipe(quickstart, out, *four_subjects)
    assert again.exit_code == 0, again.output
    after = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("fold-*/history.json")}
    assert {name for name in before if before[name] != after[name]} == {"fold-s02"}
    assert json.loads((out / "loso.json").read_text())["overall"] == summary["overall"]
    refused(
        run_recipe(quickstart, out, *four_subjects, "seed=5"), "was made by another recipe", "seed: 0 there, 5 here"
    )

    # So is one that ended without its picture, and other data are no reason to run what ended with the former ones.
    (out / "fold-s03" / "trajectory.png").unlink()
    assert run_recipe(quickstart, out, *four_subjects).exit_code == 0
    assert (out / "fold-s03" / "trajectory.png").exists()
    report = (out / "loso.md").read_bytes()
    reader, folder = synthetic.reader(5), tmp_path / "four"
    with new_folder(folder, overwrite=True) as partial:
        write(reader, reader.parts(partial, synthetic.INFO), Windowing(synthetic.INFO), partial)
    refused(run_recipe(quickstart, out, *four_subjects), "were made with other data than", "choose another output_dir")
    assert (out / "loso.md").read_bytes() == report


def test_folds_that_cannot_be_are_refused_before_the_first(quickstart, four_subjects, tmp_path):
    out = tmp_path / "out"
    refused(run_recipe(quickstart, out, *four_subjects, "save.push_to_hub=me/x"), "has a result for each subject")
    result = run_recipe(quickstart, out, *four_subjects, "data.validation_fraction=0.01")
    refused(result, "no training subject can be spared", "has 33 % of the windows: validation_fraction=0.33.")
    assert not out.exists()


def test_a_folder_of_other_data_under_the_same_path_isrefused(quickstart, four_subjects, tmp_path):
    out, data = tmp_path / "out", Path(four_subjects[0].partition("=")[2])
    one = [*four_subjects, "data.test_subject=s02"]
    assert run_recipe(quickstart, out, *one).exit_code == 0
    for name in ("iteration-001", "pruned"):
        shutil.rmtree(out / name)
    shutil.rmtree(data)
    reader = synthetic.reader(4, seed=1)
    with new_folder(data) as folder:
        write(reader, reader.parts(folder, synthetic.INFO), Windowing(synthetic.INFO), folder)
    refused(
        run_recipe(quickstart, out, *one),
        "made with other data: calibration, evaluate test, evaluate validation, train",
    )


def test_a_subject_named_like_a_path_writes_nothing_outside(quickstart, four_subjects, tmp_path):
    data = Path(four_subjects[0].partition("=")[2])
    for path in data.glob("data/*.parquet"):
        table = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"), keep_in_memory=True)
        table.map(lambda row: {"subject": row["subject"].replace("s02", "../../../x")}).to_parquet(path)
    out = tmp_path / "a" / "b" / "c" / "out"
    refused(run_recipe(quickstart, out, *four_subjects), "subject '../../../x' cannot name one")
    assert not (tmp_path / "a").exists()
    result = run_recipe(quickstart, out, *four_subjects, "data.test_subject=../../../x")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"four", "cache", "a"}
    assert [
        path.name for path in (tmp_path / "a").rglob("*") if path.name == "x" or path.name.startswith("fold")
    ] == []


def _outcome(out):
    """What a run over folds found: every weight, and every number that no clock made."""
    weights = {path.parent.parent.name: load_file(path) for path in out.glob("fold-*/pruned/model.safetensors")}
    return json.loads((out / "loso.json").read_text())["subjects"], weights


def _same(first, second):
    return first[0] == second[0] and all(
        value.equal(second[1][fold][name]) for fold, state in first[1].items() for name, value in state.items()
    )


def test_folds_side_by_side_give_what_they_give_one_after_the_other(quickstart, four_subjects, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_recipe(quickstart, one, *four_subjects).exit_code == 0
    result = run_recipe(quickstart, two, *four_subjects, "folds_in_parallel=2")
    assert result.exit_code == 0, result.output
    assert "4 folds, 2 side by side" in result.output
    assert "[4 of 4]" in result.output
    assert "original network" in (two / "fold-s03.log").read_text()
    assert len(_outcome(two)[1]) == 4
    assert _same(_outcome(one), _outcome(two))
    # What is left of an interrupted run is all that runs again.
    before = {path.parent.name: path.stat().st_mtime_ns for path in two.glob("fold-*/history.json")}
    for fold in ("s01", "s02"):
        shutil.rmtree(two / f"fold-{fold}" / "pruned")
    assert "2 folds, 2 side by side" in run_recipe(quickstart, two, *four_subjects, "folds_in_parallel=2").output
    after = {path.parent.name: path.stat().st_mtime_ns for path in two.glob("fold-*/history.json")}
    assert {name for name in before if before[name] == after[name]} >= {"fold-s03", "fold-s04"}


def test_a_run_that_has_ended_is_given_a_control_side_by_side(quickstart, four_subjects, tmp_path):
    """No folder stays locked by the process that looked whether it had ended."""
    healed = [*four_subjects, "heal={epochs: 0.1}", "folds_in_parallel=2"]
    assert run_recipe(quickstart, tmp_path / "out", *healed).exit_code == 0
    result = run_recipe(quickstart, tmp_path / "out", *healed, "controls=[scratch]")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "out").glob("fold-*/control-scratch"))) == 4


def test_subjects_are_in_the_order_of_their_numbers():
    assert sorted(["s10", "s2", "ä² b", "s1"], key=folds._natural) == ["s1", "s2", "s10", "ä² b"]


def test_the_error_of_a_fold_is_the_error_of_the_run(quickstart, four_subjects, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "fold-s02").mkdir(parents=True)
    (out / "fold-s02" / "mine.txt").write_text("not a run")
    refused(run_recipe(quickstart, out, *four_subjects, "folds_in_parallel=2"), "fold-s02")
    assert (out / "fold-s02" / "mine.txt").exists()
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    refused(
        run_recipe(quickstart, out, *four_subjects, "folds_in_parallel=2", "num_threads=2"), "more than the 3 cores"
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(run_recipe(quickstart, out, *four_subjects, "folds_in_parallel=2"), "launch one, or leave it out")


def _dies(fold, command, data, precision):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_fold_whose_process_dies_ends_the_run(quickstart, four_subjects, tmp_path):
    overrides = [*four_subjects, f"output_dir={tmp_path / 'out'}", "folds_in_parallel=2"]
    recipe = load_recipe(quickstart, overrides)
    with pytest.raises(ProcessGroupError, match=r"a fold's process died.*Start the same command again"):
        run_side_by_side(recipe, folds_of(recipe), _dies, "command", "fp32")
    assert not multiprocessing.active_children()
