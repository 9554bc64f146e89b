"""Scores of one network by several criteria, side by side: a table, JSON, a heat map."""

from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.table import Table
from scipy.stats import kendalltau, rankdata

from har_prune.reporting.names import in_figure, in_terminal
from har_prune.scoring.criteria.base import members
from har_prune.scoring.scores import Scores


def scores_table(scores: Scores) -> Table:
    """One row a block, one column a criterion; in bold, and below, the block that would go first.

    What all names begin with stands in the title: a terminal of 80 columns has no room for it in every row.
    """
    first = next(iter(scores.by_criterion.values()))
    parts = zip(*(score.name.split(".")[:-1] for score in first), strict=False)
    shared = ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))
    where = f", in {shared}" if shared else ""
    table = Table(title=in_terminal(f"Importance of {len(first)} blocks (higher = keep){where}"))
    table.add_column("block", justify="right")
    table.add_column("name", no_wrap=True)
    for name in scores.by_criterion:
        table.add_column(in_terminal(name), justify="right", overflow="fold")
    least = {name: scores.least(name)[0] for name in scores.by_criterion}
    goes_first = (f"{name}: {index}" for name, index in least.items())
    table.caption = in_terminal(f"Would go first, by {', by '.join(goes_first)}")
    for place, score in enumerate(first):
        cells = []
        for name, column in scores.by_criterion.items():
            found = column[place]
            text = f"{found.importance:.6g}"
            if found.interval is not None:
                text += f"\n{found.interval[0]:.2g}-{found.interval[1]:.2g}"
            cells.append(f"[bold]{text}[/bold]" if found.index == least[name] else text)
        table.add_row(str(score.index), in_terminal(score.name.removeprefix(f"{shared}." if shared else "")), *cells)
    return table


def costs_table(scores: Scores) -> Table:
    """One row a criterion: which blocks it would take first, how far it agrees with the first one, what it costs.

    Costs are of each by itself; together they share the forwards.
    """
    first, *_ = scores.by_criterion.values()
    table = Table(title="What each criterion finds, and what it takes by itself")
    for heading in ("criterion", "first to go"):
        table.add_column(heading, overflow="fold")
    for heading in ("agrees (tau)", "blocks forward", "backward", "MiB"):
        table.add_column(heading, justify="right")
    for name, column in scores.by_criterion.items():
        costs = [scores.costs[part] for part in members(name)]
        tau = float(kendalltau([s.importance for s in first], [s.importance for s in column]).statistic)
        table.add_row(
            in_terminal(name),
            ", ".join(map(str, scores.least(name)[:5])),
            f"{tau:.2f}",
            f"{max(cost.forward for cost in costs):,}",
            f"{max(cost.backward for cost in costs):,}",
            f"{sum(cost.bytes for cost in costs) / 2**20:.1f}",
        )
    table.caption = "tau: Kendall's, with the first criterion, 1 = the same order; blocks are counted for one example"
    return table


def scores_json(scores: Scores) -> dict[str, Any]:
    """Every criterion with what its scores have in common, and the importance of each block."""
    shared = ("samples", "seed", "reference", "precision", "estimator")
    return {
        name: {
            **{key: getattr(column[0], key) for key in shared},
            "blocks": [
                {"index": s.index, "name": s.name, "importance": s.importance, "interval": s.interval} for s in column
            ],
        }
        for name, column in scores.by_criterion.items()
    }


def plot_scores(scores: Scores, path: Path) -> None:
    """Draws criteria against blocks as a PNG.

    The colour is the rank of a block by that criterion, from 0 for the least important: criteria have different
    scales, and the choice depends on ranks alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    names, columns = list(scores.by_criterion), list(scores.by_criterion.values())
    first, grid = columns[0], [rankdata([score.importance for score in column]) - 1 for column in columns]
    figure = Figure(figsize=(2.5 + 0.42 * len(first), 1.6 + 0.42 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(grid, aspect="auto", cmap="viridis", interpolation="nearest")
    for row, ranks in enumerate(grid):
        for column, rank in enumerate(ranks):
            colour = "black" if rank > 0.6 * max(1, len(first) - 1) else "white"
            axes.text(column, row, f"{rank:g}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(len(first)), [str(score.index) for score in first])
    axes.set_yticks(range(len(names)), [in_figure(name) for name in names])
    axes.set(xlabel="block", title="Rank by importance; 0 = goes first")
    figure.colorbar(image, ax=axes, label="rank")
    figure.savefig(path, dpi=120)
