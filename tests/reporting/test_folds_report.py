"""What folds and seeds say together."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score
from tiny_history import history

from har_prune import EvalMetrics
from har_prune.reporting.folds import FOLDS as FOLDS_FILE
from har_prune.reporting.folds import folds_at, folds_report, folds_summary, pooled_figures
from har_prune.runtime.files import write_json


def _metrics(accuracy, samples=100, trials=None):
    right = round(accuracy * samples)
    confusion = [[right, samples - right], [0, 0]]
    return EvalMetrics(accuracy, accuracy, 0.5, samples, {"walk": {}}, confusion=confusion, trial_accuracy=trials,
                       balanced_accuracy=accuracy, per_group={"v": {"accuracy": 1.0, "samples": 3}})  # fmt: skip


def _history(seed, before, after, scratch):
    made = history()
    steps = [
        replace(
            step,
            weights_sha256=f"{step.iteration} {value}",
            metrics={"test": _metrics(value, trials=value / 2), "validation": _metrics(0.5)},
        )
        for step, value in zip((*made.iterations, made.iterations[1]), (before, after, scratch), strict=True)
    ]
    return replace(made, seed=seed, iterations=tuple(steps[:2]), controls={"scratch": steps[2]})


FOLDS = {
    "s1": [_history(0, 0.80, 0.84, 0.70), _history(1, 0.82, 0.82, 0.72)],
    "s2": [_history(0, 0.60, 0.62, 0.50), _history(1, 0.60, 0.66, 0.54)],
    "s3": [_history(0, 0.90, 0.85, 0.75), _history(1, 0.90, 0.85, 0.75)],
}


def test_a_subject_is_the_mean_over_seeds_and_counts_once():
    summary = folds_summary(FOLDS)
    assert summary["subjects"]["s2"]["pruned"]["accuracy"] == pytest.approx(0.64)
    assert summary["overall"]["pruned"]["accuracy"]["mean"] == pytest.approx((0.83 + 0.64 + 0.85) / 3)
    assert summary["overall"]["pruned"]["accuracy"]["folds"] == 3
    assert summary["overall"]["pruned"]["by_seed"] == pytest.approx([2.31 / 3, 2.33 / 3])
    assert summary["overall"]["original"]["trial_accuracy"]["mean"] == pytest.approx((0.81 + 0.6 + 0.9) / 6)
    assert summary["subjects"]["s1"]["validated_by"] == [["v"], ["v"]]


def test_the_seeds_of_a_run_are_those_it_says(tmp_path):
    """And not all that lie in its folder: an earlier recipe may have had more."""
    for seed, accuracy in enumerate((0.8, 0.6)):
        fold = tmp_path / f"seed-{seed}" / "fold-s1"
        fold.mkdir(parents=True)
        write_json(fold / "history.json", _history(seed, accuracy, accuracy, accuracy).to_json())
    for seeds, found in (([1], [1]), ([0, 1], [0, 1]), (None, [0, 1])):
        write_json(tmp_path / FOLDS_FILE, {"subjects": ["s1"]} | ({} if seeds is None else {"seeds": seeds}))
        assert [history.seed for history in folds_at(tmp_path)["s1"]] == found


def test_differences_are_paired_over_subjects_and_noise_is_called_noise():
    summary = folds_summary(FOLDS)
    against = summary["pruned_against"]
    assert against["original"]["mean"] == pytest.approx((0.02 + 0.04 - 0.05) / 3)
    assert against["control scratch"]["mean"] == pytest.approx((0.12 + 0.12 + 0.10) / 3)
    report = folds_report(FOLDS, "command")
    rows = {line.split(" | ")[0].strip("| *"): line for line in report.splitlines() if line.startswith("|")}
    assert rows["original"].endswith("| inside the noise |")
    assert rows["same architecture from scratch"].endswith("| undecided: by the interval alone |"), (
        "three signs are 1 of 4"
    )
    assert "3 folds, seeds 0, 1" in report


def test_a_control_that_is_the_pruned_network_itself_is_called_so():
    folds = {
        subject: [replace(first, controls={"last": first.after}), replace(second, controls={"last": second.before})]
        for subject, (first, second) in FOLDS.items()
    }
    assert folds_summary(folds)["the_pruned_itself"] == {"original": 0, "control last": 3}
    assert "; the same network in 3 of 6 runs |" in folds_report(folds, "command")


def test_pooled_figures_are_scikit_learn_s():
    generator = np.random.default_rng(0)
    confusion = generator.integers(0, 30, (5, 5))
    confusion[3] = 0  # a class nobody performed, and some were taken for
    true, found = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices((5, 5)))
    figures = pooled_figures(confusion.tolist())
    assert figures["accuracy"] == pytest.approx(np.mean(np.equal(true, found)))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, found))
    assert figures["macro_f1"] == pytest.approx(f1_score(true, found, average="macro", labels=[0, 1, 2, 4]))
