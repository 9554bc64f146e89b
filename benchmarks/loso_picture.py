"""The picture of the README: accuracy against MACs over all folds, pruned networks beside their controls.

    python benchmarks/loso_picture.py loso_utd_mhad2 docs/assets/loso_utd_mhad2.png

Reads the committed results of a run with `test_subject: all` and of its baselines; bars are 95 % intervals over folds.
"""

import argparse
import json
import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measuring import RESULTS

from har_prune.reporting.trajectory import COLOURS, CONTROLS, MARKERS


def points(name: str) -> list[tuple[str, float | None, float, float]]:
    """Name, MACs in millions (None: has none), accuracy and half its interval, in %, of every network."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    report = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    found = []
    for network, figures in record["overall"].items():
        kind, _, control = network.partition(" ")
        label = CONTROLS[control] if kind == "control" else network
        macs = re.search(rf"^\| \**{re.escape(label)}\** \| \**([\d,]+)", report, re.MULTILINE)
        if macs is None:
            raise ValueError(f"{name}.md has no row of {label!r}")
        accuracy = figures["accuracy"]
        found.append((label, int(macs[1].replace(",", "")) / 1e6, 100 * accuracy["mean"], 100 * accuracy["ci95"]))
    baselines = RESULTS / f"har_baselines_{name}.json"
    for row in json.loads(baselines.read_text(encoding="utf-8"))["table"] if baselines.exists() else []:
        macs = None if row["MACs"] == "-" else row["MACs"] / 1e6
        accuracy = float(row["accuracy %, mean of folds"])
        found.append((f"{row['network']}, no pruning", macs, accuracy, float(row["95 % interval"].lstrip("± "))))
    return found


def draw(name: str, path: Path) -> None:
    """Writes the PNG."""
    figure = Figure(figsize=(7.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    placed = points(name)
    colours = [*COLOURS, "#E69F00", "#56B4E9"]
    for (label, macs, accuracy, _), marker, colour in zip(placed, MARKERS, colours, strict=False):
        if macs is None:
            axes.axhline(accuracy, color=colour, linestyle="--", linewidth=1, label=label)
            continue
        is_result = label == "pruned"
        axes.plot(
            macs, accuracy, "*" if is_result else marker, color=colour, markersize=17 if is_result else 8, label=label
        )
    (_, start, first, _), (_, end, last, _) = placed[0], next(row for row in placed if row[0] == "pruned")
    axes.annotate(
        "", (end, last), (start, first), arrowprops={"arrowstyle": "->", "color": "grey", "shrinkA": 8, "shrinkB": 10}
    )
    axes.set(xlabel="MACs of one window, millions", ylabel="accuracy %, mean over folds", title=name.replace("_", " "))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    draw(given.name, given.path)
