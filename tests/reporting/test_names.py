"""Names nobody should give a class, a subject or a folder, in everything that shows them."""

from dataclasses import replace

import pytest
from matplotlib.image import imread
from rich.console import Console

from har_prune import BlockScore, Cost, EvalMetrics, Scores
from har_prune.pruning.history import Calibration, PruningHistory, PruningStep, ScoredBlock
from har_prune.reporting.folds import folds_report, folds_summary, plot_confusion
from har_prune.reporting.heatmap import plot_scores, scores_table
from har_prune.reporting.report import run_report
from har_prune.reporting.summary import summary_table
from har_prune.reporting.trajectory import plot_trajectory

BAD = ["a$\\frac{$b", "x|y", "<script>alert(1)</script>", "line\nbreak", "\x1b[31mred", "[/b]", "[a](http://x)"]


def _history(names, split="test"):
    figures = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 2}
    few = len(names) <= 64
    confusion = [[2 * (i == j) for j in range(len(names))] for i in range(len(names))] if few else []
    found = EvalMetrics(
        0.9, 0.9, 0.1, 2 * len(names), {name: figures for name in names}, confusion=confusion, balanced_accuracy=0.9
    )
    how = Calibration("cka", 8, 1, "current", "fp32", "exact", {}, 64, None)
    cost, scores = (
        Cost(1000, 500, 2000, 64),
        (ScoredBlock(0, "a.0", 0.1, 8, None), ScoredBlock(1, "a.1", 0.2, 8, None)),
    )
    first = PruningStep(0, (), (0, 1), (), None, cost, {"validation": found, split: found}, None, "", 1.0)
    second = replace(first, iteration=1, removed=(0,), remaining=(1,), scores=scores, calibration=how)
    recipe = {"prune": {"criterion": "a$\\frac{$b"}}
    return PruningHistory(recipe, 0, {"torch": "2"}, (first, second), selected=1)


def _rows(markdown):
    return [line for line in markdown.splitlines() if line.startswith("|")]


def test_reports_stay_tables_and_hold_no_markup():
    history = _history(BAD)
    for text in (run_report(history, "run\nx\x1b"), folds_report({name: [history] for name in BAD}, "run\nx\x1b[0m")):
        assert "<script>" not in text
        assert "\x1b" not in text
        assert "](http" not in "\n".join(_rows(text))
        assert "\n    run" in text
        assert "\nx" not in text
        widths = {line.count("|") for line in _rows(text)}
        assert len(_rows(text)) >= len(BAD)
        assert len(widths) <= 4, "each table has one number of columns"
    assert "| line break | 1.000" in run_report(history, "")


def test_names_are_drawn_as_they_are(tmp_path):
    plot_confusion({"s1": [_history(BAD)]}, tmp_path / "confusion.png")
    plot_trajectory(_history(BAD), tmp_path / "trajectory.png")
    column = (BlockScore(0, "a.0", 0.1, 8), BlockScore(1, "a.1", 0.2, 8))
    plot_scores(Scores(dict.fromkeys(BAD, column), 8, None, 0, {}), tmp_path / "scores.png")
    for name in ("confusion", "trajectory", "scores"):
        assert imread(tmp_path / f"{name}.png").size


def test_the_terminal_shows_brackets_and_no_escape_codes():
    console = Console(width=3000, record=True)
    columns = {name: (BlockScore(0, name, 0.1, 8), BlockScore(1, "a.1", 0.2, 8)) for name in BAD}
    console.print(scores_table(Scores(columns, 8, None, 0, {})))
    console.print(summary_table(_history(BAD)))
    text = console.export_text()
    assert "[/b]" in text
    assert "\x1b[31mred" not in text


@pytest.mark.parametrize("count", [64, 65])
def test_folds_of_many_classes_are_reported(count, tmp_path):
    histories = {"s1": [_history([f"c{n}" for n in range(count)])]}
    plot_confusion(histories, tmp_path / "confusion.png")
    assert imread(tmp_path / "confusion.png").size
    assert len(folds_summary(histories)["confusion"]["pruned"]) == (64 if count == 64 else 0)
    assert ("no confusion was kept" in folds_report(histories, "")) == (count > 64)


def test_two_classes_of_one_name_are_drawn_by_number(tmp_path):
    history = _history(["a", "b"])
    (same,) = {id(step.metrics["test"]): step.metrics["test"] for step in history.iterations}.values()
    same.per_class.pop("b")
    plot_confusion({"s1": [history]}, tmp_path / "confusion.png")
    assert imread(tmp_path / "confusion.png").size
