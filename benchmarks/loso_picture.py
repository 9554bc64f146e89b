"""The picture of the README: accuracy against MACs over all folds, pruned networks beside their controls.

Of the kept histories of a run with `test_subject: all`, and of its baselines.
"""

import json
from pathlib import Path

from loso_folds import Folds
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS

from har_prune.reporting.folds import folds_summary, networks_of
from har_prune.reporting.trajectory import COLOURS, CONTROLS, MARKERS


def points(name: str, folds: Folds) -> list[tuple[str, float | None, float]]:
    """Name, mean MACs in millions (None: has none) and accuracy in % of every network."""
    found: list[tuple[str, float | None, float]] = []
    overall = folds_summary(folds)["overall"]
    for network, step_of in networks_of(folds).items():
        kind, _, control = network.partition(" ")
        macs = [step_of(history).cost.macs for seeds in folds.values() for history in seeds]
        label = CONTROLS[control] if kind == "control" else network
        found.append((label, sum(macs) / len(macs) / 1e6, 100 * overall[network]["accuracy"]["mean"]))
    baselines = RESULTS / f"har_baselines_{name}.json"
    for row in json.loads(baselines.read_text(encoding="utf-8"))["table"] if baselines.exists() else []:
        macs = None if row["MACs"] == "-" else row["MACs"] / 1e6
        found.append((f"{row['network']}, no pruning", macs, float(row["accuracy %, mean of folds"])))
    return found


def draw(name: str, folds: Folds, path: Path) -> None:
    """Writes the PNG."""
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    placed = points(name, folds)
    colours = [*COLOURS, "#E69F00", "#56B4E9"]
    for (label, macs, accuracy), marker, colour in zip(placed, MARKERS, colours, strict=False):
        if macs is None:
            axes.axhline(accuracy, color=colour, linestyle="--", linewidth=1, label=label)
            continue
        is_result = label == "pruned"
        axes.plot(
            macs, accuracy, "*" if is_result else marker, color=colour, markersize=17 if is_result else 8, label=label
        )
    (_, start, first), (_, end, last) = placed[0], next(row for row in placed if row[0] == "pruned")
    axes.annotate(
        "", (end, last), (start, first), arrowprops={"arrowstyle": "->", "color": "grey", "shrinkA": 8, "shrinkB": 10}
    )
    axes.set(xlabel="MACs of one window, millions", ylabel="accuracy %, mean over folds", title=name.replace("_", " "))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
