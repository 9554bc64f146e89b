"""What all folds of a leave-one-subject-out run say together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from har_prune.evaluation.metrics import EvalMetrics
from har_prune.evaluation.significance import PairedDifference, half_interval, paired_difference
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.reporting.names import in_figure, in_markdown, printable
from har_prune.reporting.report import made_with
from har_prune.reporting.trajectory import CONTROLS

Histories = Mapping[str, Sequence[PruningHistory]]  # by test subject; one of each seed
_PRUNED, _UNPRUNED = "pruned", "original"
_METRICS = ("accuracy", "macro_f1", "trial_accuracy")
_NO_CONFUSION = "So many classes that no confusion was kept"


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Mean over folds, standard deviation (n - 1) and half-width of the 95 % confidence interval (Student's t).

    >>> summarise([0.5, 0.7])["mean"]
    0.6
    """
    deviation = stdev(values) if len(values) > 1 else 0.0
    return {"mean": fmean(values), "std": deviation, "ci95": half_interval(values), "folds": len(values)}


def networks_of(histories: Histories) -> dict[str, Callable[[PruningHistory], PruningStep]]:
    """What each row of the tables reads: the unpruned network, the pruned one, and the controls all folds have."""
    every = [history for seeds in histories.values() for history in seeds]
    names = [name for name in every[0].controls if all(name in history.controls for history in every)]
    return {
        _UNPRUNED: lambda history: history.before,
        _PRUNED: lambda history: history.after,
        **{f"control {name}": partial(_control, name) for name in names},
    }


def _control(name: str, history: PruningHistory) -> PruningStep:
    return history.controls[name]


def folds_summary(histories: Histories) -> dict[str, Any]:
    """Per subject and over all: how every network does on the test subject, as plain values.

    A subject's figure is the mean over seeds. Pooled figures count every window alike, of all folds and seeds.
    """
    networks = networks_of(histories)
    subjects: dict[str, dict[str, Any]] = {}
    for subject, seeds in histories.items():
        subjects[subject] = {
            "samples": _tested(seeds[0].before).samples,
            **{
                name: _subject_figures([_tested(step(history)) for history in seeds])
                for name, step in networks.items()
            },
            "removed": [history.removed for history in seeds],
            "validated_by": [sorted(history.before.metrics["validation"].per_group) for history in seeds],
            "macs_reduction": fmean(history.macs_reduction(history.after) for history in seeds),
        }
    overall = {
        name: {
            **{
                metric: summarise([row[name][metric] for row in subjects.values()])
                for metric in _METRICS
                if all(metric in row[name] for row in subjects.values())
            },
            "pooled": pooled_figures(_confusion(histories, step)),
            "by_seed": [
                fmean(_tested(step(seeds[place])).accuracy for seeds in histories.values())
                for place in range(len(next(iter(histories.values()))))
            ],
        }
        for name, step in networks.items()
    }
    compared = {
        name: asdict(
            paired_difference([row[_PRUNED]["accuracy"] - row[name]["accuracy"] for row in subjects.values()])
        )
        for name in networks
        if name != _PRUNED
    }
    return {
        "overall": overall,
        "pruned_against": compared,
        "the_pruned_itself": {name: _same_weights(histories, networks[name]) for name in compared},
        "subjects": subjects,
        "confusion": {name: _confusion(histories, step) for name, step in networks.items()},
    }


def _same_weights(histories: Histories, network: Callable[[PruningHistory], PruningStep]) -> int:
    """In how many runs a network is the pruned one: where CKA takes the last blocks, the control "last" is."""
    every = [history for seeds in histories.values() for history in seeds]
    return sum(network(history).weights_sha256 == history.after.weights_sha256 is not None for history in every)


def _subject_figures(seeds: Sequence[EvalMetrics]) -> dict[str, float]:
    values = {metric: [getattr(metrics, metric) for metrics in seeds] for metric in _METRICS}
    return {metric: fmean(found) for metric, found in values.items() if None not in found}


def pooled_figures(confusion: list[list[int]]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro-F1 and recalls of a confusion matrix; empty without one."""
    rows = [(index, row) for index, row in enumerate(confusion) if sum(row)]
    if not rows:
        return {}
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    recalls = {index: row[index] / sum(row) for index, row in rows}
    f1 = [2 * row[index] / (sum(row) + predicted[index]) for index, row in rows]
    hits, total = sum(row[index] for index, row in rows), sum(sum(row) for _, row in rows)
    return {
        "accuracy": hits / total,
        "balanced_accuracy": fmean(recalls.values()),
        "macro_f1": fmean(f1),
        "recall": {str(index): value for index, value in recalls.items()},
    }


def folds_report(histories: Histories, command: str) -> str:
    """The same as Markdown."""
    summary = folds_summary(histories)
    first, seeds = next(iter(histories.values()))[0], [history.seed for history in next(iter(histories.values()))]
    overall = summary["overall"]
    lines = [
        f"# Leave one subject out: {len(histories)} folds, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        "",
        f"    {printable(command)}",
        "",
        *made_with(first),
        "",
        *_means_table(histories, overall),
        "",
        *_comparisons(summary),
        "",
        *_subjects_table(summary["subjects"]),
        "",
        *_recall_table(histories, overall),
        "Each subject is the test of one fold, and nobody trained, validated or calibrated on them in it. The "
        "interval is Student's t over folds; folds share training subjects, so it is an approximation. Pooled: every "
        "window counts alike, whoever it is of. Trials: the class most of a trial's windows are given. Better or "
        "worse is what both interval and test say; p is not corrected for the number of comparisons.",
    ]
    if not summary["confusion"][_UNPRUNED]:
        lines += ["", f"{_NO_CONFUSION}: confusion.png has no matrix."]
    return "\n".join(lines) + "\n"


def _label(name: str) -> str:
    kind, _, control = name.partition(" ")
    return CONTROLS.get(control, control) if kind == "control" else name


def _means_table(histories: Histories, overall: dict[str, Any]) -> list[str]:
    lines = [
        "| network | MACs | accuracy %, mean of folds | 95 % interval | by seed | macro-F1 %, mean of folds | "
        "trials % | pooled accuracy % | pooled balanced accuracy % | pooled macro-F1 % |",
        "|" + "---|" * 10,
    ]
    for name, step in networks_of(histories).items():
        row = overall[name]
        pooled = [f"{100 * row['pooled'][key]:.2f}" if row["pooled"] else "-" for key in _POOLED]
        by_seed = ", ".join(f"{100 * value:.2f}" for value in row["by_seed"])
        trials = f"{100 * row['trial_accuracy']['mean']:.2f}" if "trial_accuracy" in row else "-"
        cells = [
            _label(name), _macs(step, histories), f"{100 * row['accuracy']['mean']:.2f}",
            f"± {100 * row['accuracy']['ci95']:.2f}", by_seed, f"{100 * row['macro_f1']['mean']:.2f}", trials, *pooled,
        ]  # fmt: skip
        cells = [f"**{cell}**" for cell in cells] if name == _PRUNED else cells
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _macs(step: Any, histories: Histories) -> str:
    every = {step(history).cost.macs for seeds in histories.values() for history in seeds}
    return f"{min(every):,}" if len(every) == 1 else f"{min(every):,} to {max(every):,}"


_POOLED = ("accuracy", "balanced_accuracy", "macro_f1")


def _comparisons(summary: dict[str, Any]) -> list[str]:
    runs = sum(len(row["removed"]) for row in summary["subjects"].values())
    lines = [
        "| pruned against | difference of accuracy, points | 95 % interval | Wilcoxon p, paired over subjects | |",
        "|---|---|---|---|---|",
    ]
    for name, values in summary["pruned_against"].items():
        difference, itself = PairedDifference(**values), summary["the_pruned_itself"][name]
        said = difference.verdict + (f"; the same network in {itself} of {runs} runs" if itself else "")
        lines.append(
            f"| {_label(name)} | {100 * difference.mean:+.2f} | ± {100 * difference.ci95:.2f} | {difference.p:.3f} | "
            f"{said} |"
        )
    return lines


def _subjects_table(subjects: dict[str, Any]) -> list[str]:
    networks = [name for name, value in next(iter(subjects.values())).items() if isinstance(value, dict)]
    header = " | ".join(f"accuracy %, {_label(name)}" for name in networks)
    lines = [
        f"| test subject | windows | {header} | validated by | MACs removed % | removed blocks |",
        "|" + "---|" * (5 + len(networks)),
    ]
    for subject, row in subjects.items():
        figures = " | ".join(f"{100 * row[name]['accuracy']:.2f}" for name in networks)
        removed = "; ".join(", ".join(map(str, blocks)) for blocks in row["removed"])
        people = "; ".join(dict.fromkeys(", ".join(map(in_markdown, names)) for names in row["validated_by"]))
        cells = (
            in_markdown(subject), f"{row['samples']:,}", figures, people or "-", f"{100 * row['macs_reduction']:.2f}",
            removed,
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _recall_table(histories: Histories, overall: dict[str, Any]) -> list[str]:
    before, after = (overall[name]["pooled"].get("recall", {}) for name in (_UNPRUNED, _PRUNED))
    if not before:
        return []
    names = _class_names(histories)
    lines = ["| class | recall % over all windows, original | pruned |", "|---|---|---|"]
    for index, value in before.items():
        lines.append(f"| {in_markdown(names[int(index)])} | {100 * value:.1f} | {100 * after[index]:.1f} |")
    return [*lines, ""]


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
    networks = networks_of(histories)
    for axes, network in zip(figure.subplots(1, 2), (_UNPRUNED, _PRUNED), strict=True):
        counts = _confusion(histories, networks[network])
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


def _tested(step: PruningStep) -> EvalMetrics:
    return step.metrics["test"]


def _confusion(histories: Histories, network: Callable[[PruningHistory], PruningStep]) -> list[list[int]]:
    matrices = [_tested(network(history)).confusion for seeds in histories.values() for history in seeds]
    return [[sum(column) for column in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]


def _class_names(histories: Histories) -> list[str]:
    """Names by index: each fold knows those that its test subject performed, and where they stand in the matrix."""
    names: dict[int, str] = {}
    for seeds in histories.values():
        quality = _tested(seeds[0].before)
        present = [index for index, row in enumerate(quality.confusion) if sum(row)]
        if len(present) == len(quality.per_class):  # not where two classes have one name
            names.update(zip(present, quality.per_class, strict=True))
    classes = len(_tested(next(iter(histories.values()))[0].before).confusion)
    return [names.get(index, str(index)) for index in range(classes)]
