"""What all folds of a leave-one-subject-out run say together."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_figure, in_markdown, printable
from har_prune.reporting.report import made_with

Histories = Mapping[str, PruningHistory]  # by test subject
_NETWORKS = ("original", "pruned")
_METRICS = ("accuracy", "macro_f1")
_NO_CONFUSION = "So many classes that no confusion was kept"


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Mean over folds, standard deviation (n - 1) and half-width of the 95 % confidence interval (Student's t).

    >>> summarise([0.5, 0.7])["mean"]
    0.6
    """
    deviation = stdev(values) if len(values) > 1 else 0.0
    half = float(student.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": fmean(values), "std": deviation, "ci95": half, "folds": len(values)}


def folds_summary(histories: Histories) -> dict[str, Any]:
    """Per subject and over all: accuracy and macro-F1 on the test subject, original and pruned, as plain values."""
    subjects: dict[str, dict[str, Any]] = {}
    for subject, history in histories.items():
        before, after = _tested(history)
        subjects[subject] = {
            "samples": before.samples,
            "original": {metric: getattr(before, metric) for metric in _METRICS},
            "pruned": {metric: getattr(after, metric) for metric in _METRICS},
            "removed": history.removed,
            "macs_reduction": history.macs_reduction(history.after),
        }
    overall = {
        network: {metric: summarise([row[network][metric] for row in subjects.values()]) for metric in _METRICS}
        for network in _NETWORKS
    }
    overall["change"] = {
        metric: summarise([row["pruned"][metric] - row["original"][metric] for row in subjects.values()])
        for metric in _METRICS
    }
    return {
        "overall": overall,
        "subjects": subjects,
        "confusion": {network: _confusion(histories, network) for network in _NETWORKS},
    }


def folds_report(histories: Histories, command: str) -> str:
    """The same as Markdown."""
    summary = folds_summary(histories)
    overall, first = summary["overall"], next(iter(histories.values()))
    lines = [
        f"# Leave one subject out: {len(histories)} folds",
        "",
        f"    {printable(command)}",
        "",
        *made_with(first),
        "",
        "| mean of folds | accuracy % | deviation | 95 % interval | macro-F1 % | deviation | 95 % interval |",
        "|---|---|---|---|---|---|---|",
        *(f"| {network} | {_means(overall[network])} |" for network in _NETWORKS),
        f"| change | {_means(overall['change'], sign='+')} |",
        "",
        "| test subject | windows | accuracy %, original | pruned | macro-F1 %, original | pruned | MACs removed % | "
        "removed blocks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for subject, row in summary["subjects"].items():
        figures = " | ".join(f"{100 * row[network][metric]:.2f}" for metric in _METRICS for network in _NETWORKS)
        removed = ", ".join(map(str, row["removed"]))
        cells = (in_markdown(subject), f"{row['samples']:,}", figures, f"{100 * row['macs_reduction']:.2f}", removed)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Each subject is the test of one fold, and nobody trained, validated or calibrated on them in it. The "
        "interval is Student's t over folds; folds share training subjects, so it is an approximation.",
    ]
    if not summary["confusion"]["original"]:
        lines += ["", f"{_NO_CONFUSION}: confusion.png has no matrix."]
    return "\n".join(lines) + "\n"


def _means(figures: dict[str, dict[str, float]], sign: str = "") -> str:
    return " | ".join(
        f"{100 * figure['mean']:{sign}.2f} | {100 * figure['std']:.2f} | ± {100 * figure['ci95']:.2f}"
        for figure in (figures[metric] for metric in _METRICS)
    )


def plot_confusion(histories: Histories, path: Path) -> None:
    """Draws the confusion of all folds together, original beside pruned, as a PNG; a row adds up to 100 %.

    Of more classes than records keep a confusion for, the figure only says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    names = [in_figure(name) for name in _class_names(histories)]
    size = 2.2 + 0.38 * len(names)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    FigureCanvasAgg(figure)
    if not names:
        figure.text(0.5, 0.5, _NO_CONFUSION, ha="center", va="center")
        figure.savefig(path, dpi=120)
        return
    for axes, network in zip(figure.subplots(1, 2), _NETWORKS, strict=True):
        counts = _confusion(histories, network)
        shares = [[value / max(1, sum(row)) for value in row] for row in counts]
        image = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        for row, values in enumerate(shares):
            for column, value in enumerate(values):
                if value >= 0.01:
                    colour = "black" if value > 0.6 else "white"
                    axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set(xlabel="predicted", ylabel="true", title=f"{network}, % of the true class")
    figure.colorbar(image, ax=figure.axes, shrink=0.8)
    figure.savefig(path, dpi=120)


def _tested(history: PruningHistory) -> tuple[EvalMetrics, EvalMetrics]:
    return history.before.metrics["test"], history.after.metrics["test"]


def _confusion(histories: Histories, network: str) -> list[list[int]]:
    matrices = [_tested(history)[_NETWORKS.index(network)].confusion for history in histories.values()]
    return [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _class_names(histories: Histories) -> list[str]:
    """Names by index: each fold knows those that its test subject performed, and where they stand in the matrix."""
    names: dict[int, str] = {}
    for history in histories.values():
        quality, _ = _tested(history)
        present = [index for index, row in enumerate(quality.confusion) if sum(row)]
        if len(present) == len(quality.per_class):  # not where two classes have one name
            names.update(zip(present, quality.per_class, strict=True))
    classes = len(next(iter(histories.values())).before.metrics["test"].confusion)
    return [names.get(index, str(index)) for index in range(classes)]
