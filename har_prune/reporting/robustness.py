"""Robustness of one network, or of several side by side: the same rows for the console, Markdown and pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from har_prune.evaluation.robustness.measure import Robustness, corruption_error
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_figure, in_markdown, in_terminal
from har_prune.reporting.trajectory import MARKERS, colour_of, rows_of

AS_THEY_ARE = "as they are"


@dataclass(frozen=True)
class Row:
    """A line of a table: a title, and a figure for each network; None where it was not measured."""

    title: str
    values: tuple[float | None, ...]


def robustness_of(history: PruningHistory) -> dict[str, Robustness]:
    """What was measured of the networks of a run that stand beside each other, by what they are called."""
    found = {name: step.measured.get("robustness") for name, step in rows_of(history).items()}
    return {name: measured for name, measured in found.items() if isinstance(measured, Robustness)}


def compared(networks: Mapping[str, Robustness]) -> list[Row]:
    """Accuracy in % on each kind of data, mean over severities; then the corruption error, and calibration errors.

    Args:
        networks: By name, the original first: corruption errors are relative to it.
    """
    measured = list(networks.values())
    rows = [Row(AS_THEY_ARE, tuple(100 * each.accuracy for each in measured))]
    for name in dict.fromkeys(name for each in measured for name in each.results):
        found = [each.results.get(name) for each in measured]
        rows.append(Row(name, tuple(100 * fmean(each["accuracy"]) if each else None for each in found)))
    if any(each.results[name]["sort"] == "corruption" for each in measured for name in each.results):
        errors = tuple(corruption_error(each, measured[0]) for each in measured)
        rows.append(Row("mean corruption error, % of the original's", errors))
    rows.append(Row("calibration error %, as they are", tuple(100 * each.calibration_error for each in measured)))
    worse = tuple(_calibration(each) for each in measured)
    return [*rows, Row("calibration error %, mean of all above", worse)]


def _calibration(measured: Robustness) -> float | None:
    found = [fmean(row["calibration_error"]) for row in measured.results.values()]
    return 100 * fmean(found) if found else None


def robustness_markdown(networks: Mapping[str, Robustness]) -> list[str]:
    """A section of a report; nothing where nothing was measured."""
    if not networks:
        return []
    first = next(iter(networks.values()))
    lines = [
        "",
        f"## Robustness, on {first.samples:,} {in_markdown(first.split)} examples",
        "",
        f"| accuracy %, mean over severities | {' | '.join(map(in_markdown, networks))} |",
        "|---|" + "---|" * len(networks),
    ]
    lines += [f"| {in_markdown(row.title)} | {' | '.join(map(_text, row.values))} |" for row in compared(networks)]
    return [*lines, "", f"Seed {first.seed}; attacks use the gradients of the network they attack."]


def robustness_table(measured: Robustness) -> Table:
    """One network: accuracy by severity."""
    severities = sorted({severity for row in measured.results.values() for severity in row["severities"]})
    table = Table(title=in_terminal(f"Robustness: accuracy % on {measured.samples:,} {measured.split} examples"))
    table.add_column("")
    for severity in severities:
        table.add_column(f"severity {severity}" if severity else "all", justify="right")
    table.add_column("mean", justify="right")
    table.add_column("calibration error %", justify="right")
    blank = [""] * len(severities)
    table.add_row(AS_THEY_ARE, *blank, _text(100 * measured.accuracy), _text(100 * measured.calibration_error))
    for name, row in measured.results.items():
        known = dict(zip(row["severities"], row["accuracy"], strict=True))
        cells = [_text(100 * known[severity]) if severity in known else "-" for severity in severities]
        means = 100 * fmean(row["accuracy"]), 100 * fmean(row["calibration_error"])
        table.add_row(in_terminal(name), *cells, *map(_text, means))
    return table


def draw_robustness(axes: Any, networks: Mapping[str, Robustness]) -> None:
    """Accuracy on each kind of data, one mark a network, on axes of matplotlib."""
    first = next(iter(networks.values()))
    rows = [row for row in compared(networks) if row.title == AS_THEY_ARE or row.title in first.results]
    for place, (network, marker) in enumerate(zip(networks, cycle(MARKERS), strict=False)):
        known = [(row.values[place], line) for line, row in enumerate(rows) if row.values[place] is not None]
        axes.plot(*zip(*known, strict=True), marker, color=colour_of(place), markersize=5, label=in_figure(network))
    axes.set_yticks(range(len(rows)), [in_figure(row.title) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("accuracy %, mean over severities")
    axes.grid(alpha=0.25)


def plot_robustness(history: PruningHistory, path: Path) -> None:
    """Draws it as a PNG; nothing is written where it was not measured."""
    networks = robustness_of(history)
    if not networks:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(7, 1.3 + 0.24 * len(next(iter(networks.values())).results)), layout="constrained")
    FigureCanvasAgg(figure)
    draw_robustness(figure.subplots(), networks)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
