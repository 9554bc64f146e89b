"""What all folds of a leave-one-subject-out run say together."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from har_prune.errors import OutputFolderError
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.evaluation.significance import PairedDifference, half_interval, paired_difference
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.store import history_at
from har_prune.reporting.names import in_figure, in_markdown, printable
from har_prune.reporting.report import made_with
from har_prune.reporting.trajectory import CONTROLS

FOLDS = "loso.json"  # in the run's folder: what `folds_summary` says
Histories = Mapping[str, Sequence[PruningHistory]]  # by test subject; one of each seed
PRUNED, UNPRUNED = "pruned", "original"
_METRICS = ("accuracy", "macro_f1", "trial_accuracy")
_NO_CONFUSION = "So many classes that no confusion was kept"


def folds_at(path: Path) -> dict[str, list[PruningHistory]]:
    """The records of a run with `test_subject: all` that has ended, by test subject; one of each seed that has ended.

    Args:
        path: The run's folder; of another folder there are none.

    Raises:
        OutputFolderError: One cannot be read.
    """
    if not (path / FOLDS).is_file():
        return {}
    try:
        summary = json.loads((path / FOLDS).read_text(encoding="utf-8"))
        subjects, wanted = list(summary["subjects"]), summary.get("seeds")
    except (ValueError, KeyError, TypeError) as error:
        raise OutputFolderError(
            f"{path / FOLDS} is damaged ({error}): run the recipe again, and it is made."
        ) from error
    numbered = {seed.name.removeprefix("seed-"): seed for seed in path.glob("seed-*")}
    if wanted is None:  # a record of 0.1 does not say which: all that are there
        wanted = sorted(filter(str.isdecimal, numbered), key=int)
    seeds = [path / f"seed-{number}" for number in wanted] or [path]
    records = [[seed / f"fold-{subject}" / "history.json" for subject in subjects] for seed in seeds]
    ended = [of_seed for of_seed in records if all(record.is_file() for record in of_seed)]
    return {subject: [history_at(seed[place]) for seed in ended] for place, subject in enumerate(subjects) if ended}


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
        UNPRUNED: lambda history: history.before,
        PRUNED: lambda history: history.after,
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
        name: asdict(paired_difference([row[PRUNED]["accuracy"] - row[name]["accuracy"] for row in subjects.values()]))
        for name in networks
        if name != PRUNED
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


@dataclass(frozen=True)
class FoldsTable:
    """A table of what all folds say; names in it are as the data have them.

    Args:
        caption: What it is.
        columns: Their names.
        rows: Cells of each row.
        strong: Row of the pruned network; None = there is none.
    """

    caption: str
    columns: list[str]
    rows: list[list[str]]
    strong: int | None = None

    def markdown(self) -> list[str]:
        """Lines of it."""
        lines = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        for place, row in enumerate(self.rows):
            cells = [f"**{cell}**" if place == self.strong else cell for cell in map(in_markdown, row)]
            lines.append("| " + " | ".join(cells) + " |")
        return lines


def folds_report(histories: Histories, command: str) -> str:
    """The same as Markdown."""
    summary = folds_summary(histories)
    first, seeds = next(iter(histories.values()))[0], [history.seed for history in next(iter(histories.values()))]
    lines = [
        f"# Leave one subject out: {len(histories)} folds, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        "",
        f"    {printable(command)}",
        "",
        *made_with(first),
        "",
    ]
    for table in folds_tables(histories, summary):
        lines += [*table.markdown(), ""]
    lines.append(FOLDS_NOTE)
    if not summary["confusion"][UNPRUNED]:
        lines += ["", f"{_NO_CONFUSION}: confusion.png has no matrix."]
    return "\n".join(lines) + "\n"


FOLDS_NOTE = (
    "Each subject is the test of one fold, and nobody trained, validated or calibrated on them in it. The "
    "interval is Student's t over folds; folds share training subjects, so it is an approximation. Pooled: every "
    "window counts alike, whoever it is of. Trials: the class most of a trial's windows are given. Better or "
    "worse is what both interval and test say; p is not corrected for the number of comparisons."
)


def folds_tables(histories: Histories, summary: dict[str, Any]) -> list[FoldsTable]:
    """All networks, the pruned one against each, every subject, and every class where a confusion was kept."""
    tables = [_means(histories, summary["overall"]), _comparisons(summary), _subjects(summary["subjects"])]
    return tables + _recalls(histories, summary["overall"])


def _label(name: str) -> str:
    kind, _, control = name.partition(" ")
    return CONTROLS.get(control, control) if kind == "control" else name


def _means(histories: Histories, overall: dict[str, Any]) -> FoldsTable:
    columns = ["network", "MACs", "accuracy %, mean of folds", "95 % interval", "by seed", "macro-F1 %, mean of folds"]
    columns += ["trials %", "pooled accuracy %", "pooled balanced accuracy %", "pooled macro-F1 %"]
    rows = []
    for name, step in networks_of(histories).items():
        row = overall[name]
        rows.append(
            [
                _label(name),
                _macs(step, histories),
                f"{100 * row['accuracy']['mean']:.2f}",
                f"± {100 * row['accuracy']['ci95']:.2f}",
                ", ".join(f"{100 * value:.2f}" for value in row["by_seed"]),
                f"{100 * row['macro_f1']['mean']:.2f}",
                f"{100 * row['trial_accuracy']['mean']:.2f}" if "trial_accuracy" in row else "-",
                *(f"{100 * row['pooled'][key]:.2f}" if row["pooled"] else "-" for key in _POOLED),
            ]
        )
    return FoldsTable("Networks", columns, rows, list(networks_of(histories)).index(PRUNED))


def _macs(step: Any, histories: Histories) -> str:
    every = {step(history).cost.macs for seeds in histories.values() for history in seeds}
    return f"{min(every):,}" if len(every) == 1 else f"{min(every):,} to {max(every):,}"


_POOLED = ("accuracy", "balanced_accuracy", "macro_f1")


def _comparisons(summary: dict[str, Any]) -> FoldsTable:
    runs, rows = sum(len(row["removed"]) for row in summary["subjects"].values()), []
    for name, values in summary["pruned_against"].items():
        difference, itself = PairedDifference(**values), summary["the_pruned_itself"][name]
        said = difference.verdict + (f"; the same network in {itself} of {runs} runs" if itself else "")
        figures = [f"{100 * difference.mean:+.2f}", f"± {100 * difference.ci95:.2f}", f"{difference.p:.3f}"]
        rows.append([_label(name), *figures, said])
    columns = ["pruned against", "difference of accuracy, points", "95 % interval"]
    return FoldsTable("Comparisons", [*columns, "Wilcoxon p, paired over subjects", "verdict"], rows)


def _subjects(subjects: dict[str, Any]) -> FoldsTable:
    networks = [name for name, value in next(iter(subjects.values())).items() if isinstance(value, dict)]
    rows = []
    for subject, row in subjects.items():
        people = "; ".join(dict.fromkeys(", ".join(names) for names in row["validated_by"]))
        rows.append(
            [
                subject,
                f"{row['samples']:,}",
                *(f"{100 * row[name]['accuracy']:.2f}" for name in networks),
                people or "-",
                f"{100 * row['macs_reduction']:.2f}",
                "; ".join(", ".join(map(str, blocks)) for blocks in row["removed"]),
            ]
        )
    columns = ["test subject", "windows", *(f"accuracy %, {_label(name)}" for name in networks)]
    return FoldsTable("Test subjects", [*columns, "validated by", "MACs removed %", "removed blocks"], rows)


def _recalls(histories: Histories, overall: dict[str, Any]) -> list[FoldsTable]:
    before, after = (overall[name]["pooled"].get("recall", {}) for name in (UNPRUNED, PRUNED))
    if not before:
        return []
    names = class_names(histories)
    rows = [[names[int(index)], f"{100 * value:.1f}", f"{100 * after[index]:.1f}"] for index, value in before.items()]
    return [FoldsTable("Classes", ["class", "recall % over all windows, original", "pruned"], rows)]


def plot_confusion(histories: Histories, path: Path) -> None:
    """Draws the confusion of all folds together, original beside pruned, as a PNG; a row adds up to 100 %.

    Of more classes than records keep a confusion for, the figure only says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    names = [in_figure(name) for name in class_names(histories)]
    size = 2.2 + 0.38 * len(names)
    figure = Figure(figsize=(2 * size, size), layout="constrained")
    FigureCanvasAgg(figure)
    if not names:
        figure.text(0.5, 0.5, _NO_CONFUSION, ha="center", va="center")
        figure.savefig(path, dpi=120)
        return
    networks = networks_of(histories)
    for axes, network in zip(figure.subplots(1, 2), (UNPRUNED, PRUNED), strict=True):
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


def class_names(histories: Histories) -> list[str]:
    """Names by index: each fold knows those that its test subject performed, and where they stand in the matrix."""
    names: dict[int, str] = {}
    for seeds in histories.values():
        quality = _tested(seeds[0].before)
        present = [index for index, row in enumerate(quality.confusion) if sum(row)]
        if len(present) == len(quality.per_class):  # not where two classes have one name
            names.update(zip(present, quality.per_class, strict=True))
    classes = len(_tested(next(iter(histories.values()))[0].before).confusion)
    return [names.get(index, str(index)) for index in range(classes)]
