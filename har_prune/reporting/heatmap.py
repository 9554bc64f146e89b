"""Scores of one network by several criteria, side by side: a table, JSON, a heat map."""

from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.table import Table
from scipy.stats import rankdata

from har_prune.reporting.names import in_figure, in_terminal
from har_prune.scoring.score import BlockScore

Scores = dict[str, list[BlockScore]]


def scores_table(scores: Scores) -> Table:
    """One row a block, one column a criterion; in bold, and below, the block that would go first.

    What all names begin with stands in the title: a terminal of 80 columns has no room for it in every row.
    """
    first = next(iter(scores.values()))
    parts = zip(*(score.name.split(".")[:-1] for score in first), strict=False)
    shared = ".".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts))
    where = f", in {shared}" if shared else ""
    table = Table(title=in_terminal(f"Importance of {len(first)} blocks (higher = keep){where}"))
    table.add_column("block", justify="right")
    table.add_column("name", no_wrap=True)
    for name in scores:
        table.add_column(in_terminal(name), justify="right", overflow="fold")
    least = {name: min(column, key=lambda score: (score.importance, score.index)) for name, column in scores.items()}
    goes_first = (f"{name}: {score.index}" for name, score in least.items())
    table.caption = in_terminal(f"Would go first, by {', by '.join(goes_first)}")
    for place, score in enumerate(first):
        cells = []
        for name, column in scores.items():
            found = column[place]
            text = f"{found.importance:.6g}"
            if found.interval is not None:
                text += f"\n{found.interval[0]:.2g}-{found.interval[1]:.2g}"
            cells.append(f"[bold]{text}[/bold]" if found is least[name] else text)
        table.add_row(str(score.index), in_terminal(score.name.removeprefix(f"{shared}." if shared else "")), *cells)
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
        for name, column in scores.items()
    }


def plot_scores(scores: Scores, path: Path) -> None:
    """Draws criteria against blocks as a PNG.

    The colour is the rank of a block by that criterion, from 0 for the least important: criteria have different
    scales, and the choice depends on ranks alone.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    names, first = list(scores), next(iter(scores.values()))
    grid = [rankdata([score.importance for score in scores[name]]) - 1 for name in names]
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
