"""The trajectory of a run: one row, and one point, per iteration."""

from pathlib import Path

from har_prune.pruning.history import PruningHistory


def trajectory_markdown(history: PruningHistory) -> str:
    """A Markdown table of all iterations; the selected one is in bold."""
    first = history.iterations[0].quality
    header = ["iteration", "removed", "blocks", "MACs", "reduction %", "parameters", "latency ms"]
    header += [f"{split} {name}" for split, quality in first.items() for name in quality.figures]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for step in history.iterations:
        cells = [
            str(step.iteration),
            ", ".join(map(str, step.removed)) or "-",
            str(len(step.remaining)),
            f"{step.macs:,}",
            f"{100 * history.macs_reduction(step):.2f}",
            f"{step.parameters:,}",
            "-" if step.latency_ms is None else f"{step.latency_ms:.2f}",
        ]
        cells += [f"{value:.2f}" for split in first for value in step.quality[split].figures.values()]
        if step.iteration == history.selected:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_trajectory(history: PruningHistory, path: Path) -> None:
    """Draws quality against MACs reduction, and the importance of every block in every iteration, as a PNG.

    Args:
        history: A run with at least one removal.
        path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy_axes, score_axes = figure.subplots(1, 2)
    reductions = [100 * history.macs_reduction(step) for step in history.iterations]
    for split, quality in history.iterations[0].quality.items():
        figure_name = next(iter(quality.figures))
        values = [step.quality[split].figures[figure_name] for step in history.iterations]
        accuracy_axes.plot(reductions, values, marker="o", markersize=4, label=split)
    accuracy_axes.axvline(reductions[history.selected], color="grey", linewidth=0.8, linestyle=":")
    accuracy_axes.set(xlabel="MACs removed (%)", ylabel=figure_name, title="Trajectory")
    accuracy_axes.grid(alpha=0.3)
    accuracy_axes.legend()

    pruned = history.iterations[1:]
    depth = max(history.iterations[0].remaining) + 1
    grid = [[float("nan")] * depth for _ in pruned]
    for row, step in enumerate(pruned):
        for score in step.scores:
            grid[row][score.block] = score.importance
    scores = [score.importance for step in pruned for score in step.scores]
    scale = LogNorm() if min(scores) > 0 else None  # one block often matters a hundred times more than the next
    image = score_axes.imshow(grid, aspect="auto", cmap="viridis", interpolation="nearest", norm=scale)
    rows = [(row, block) for row, step in enumerate(pruned) for block in step.removed]
    score_axes.scatter([block for _, block in rows], [row for row, _ in rows], marker="x", color="red", s=24)
    score_axes.set(xlabel="block (index in the original network)", title="Importance; x = removed")
    score_axes.set_yticks(range(len(pruned)), [str(step.iteration) for step in pruned])
    score_axes.set_ylabel("iteration")
    figure.colorbar(
        image,
        ax=score_axes,
        label=f"importance ({history.recipe.get('prune', history.recipe).get('criterion', 'cka')})",
    )
    figure.savefig(path, dpi=120)
