"""The trajectory of a run: one row, and one point, per iteration."""

import math
from pathlib import Path
from typing import Any

from har_prune.evaluation.cost import Cost
from har_prune.evaluation.latency import Latency
from har_prune.evaluation.measurement import figures_of
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.reporting.names import in_figure, in_markdown
from har_prune.reporting.structures import choice_text, removed_text


def trajectory_markdown(history: PruningHistory) -> str:
    """A Markdown table of all iterations; the selected one is in bold."""
    first, kinds = history.before.metrics, list(figures_of(history.after.measured))
    timed = any(step.cost.latency for step in history.iterations)  # a column of dashes says nothing
    chose = any(step.choice for step in history.iterations)
    header = ["iteration", "removed", *["closer"] * chose, "blocks", macs_label(history.before.cost)]
    header += ["reduction %", "parameters"]
    header += ["latency ms (p90)"] * timed
    header += [f"{split} {name}" for split, metrics in first.items() for name in metrics.figures] + kinds
    lines = ["| " + " | ".join(map(in_markdown, header)) + " |", "|" + "---|" * len(header)]
    for step in history.iterations:
        cells = [
            str(step.iteration),
            removed_text(step),
            *[choice_text(step) or "-"] * chose,
            str(len(step.remaining)),
            f"{step.cost.macs:,}",
            f"{100 * history.macs_reduction(step):.2f}",
            f"{step.cost.parameters:,}",
            *[latency_text(step.cost.latency)] * timed,
        ]
        cells += [f"{value:.2f}" for split in first for value in step.metrics[split].figures.values()]
        measured = figures_of(step.measured)
        cells += [f"{measured[name]:.2f}" if name in measured else "-" for name in kinds]
        if step.iteration == history.selected:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines + _controls(history))


# Okabe & Ito's colours that stand out from white and from black; shapes say the same.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#A8578A", "#777777", "#8C6D00")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def colour_of(place: int) -> str:
    """The colour of the line or mark that comes at some place."""
    return COLOURS[place % len(COLOURS)]


CONTROLS = {
    "scratch": "same architecture from scratch",
    "scratch_full": "same architecture from scratch, trained in full",
    "original": "original, trained on",
    "random": "random blocks removed",
    "last": "last blocks removed",
}


def rows_of(history: PruningHistory) -> dict[str, PruningStep]:
    """The networks of a run that stand beside each other, by what they are called in tables."""
    controls = {CONTROLS.get(name, name): step for name, step in history.controls.items()}
    return {"original": history.before, "pruned": history.after, **controls}


def _controls(history: PruningHistory) -> list[str]:
    """A table of the result beside its controls; nothing without them."""
    if not history.controls:
        return []
    split = history.shown_split
    names = list(history.after.metrics[split].figures)
    header = ["network", "blocks", "MACs", "examples of training", *(f"{split} {name}" for name in names)]
    lines = ["", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name, step in rows_of(history).items():
        seen = training_examples(history, step)
        figures = [f"{value:.2f}" for value in step.metrics[split].figures.values()]
        cells = [name, str(len(step.remaining)), f"{step.cost.macs:,}", f"{seen:,}", *figures]
        lines.append("| " + " | ".join(f"**{cell}**" if step is history.after else cell for cell in cells) + " |")
    return [*lines, "", f"{controls_note(history)} {noise_note(history)}".rstrip()]


def noise_note(history: PruningHistory) -> str:
    """How uncertain the accuracy of the result is; nothing where tokens were predicted, which are not independent."""
    metrics = history.after.metrics[history.shown_split]
    if metrics.task != "classification":
        return ""
    return (
        f"{metrics.samples:,} examples leave an accuracy uncertain by {noise_of(metrics):.2f} points (95 %); another "
        "seed moves it too."
    )


def chosen_note(history: PruningHistory) -> str:
    """What data chose in a run."""
    recipe = history.recipe
    heal, target = recipe.get("heal"), recipe.get("prune", recipe).get("target") or {}
    by_validation = ["weights"] if heal and heal.get("keep", "best") == "best" else []
    by_validation += ["when to stop"] if target.get("min_accuracy") is not None else []
    note = "Blocks were chosen by calibration data"
    note += f" and {' and '.join(by_validation)} by validation data" if by_validation else ""
    note += "; test data chose nothing."
    return note + (
        " Validation examples trained as well (refit): their figures flatter." if recipe.get("refit") else ""
    )


def controls_note(history: PruningHistory) -> str:
    """How the controls of a run were trained."""
    full = "; in full means on labels, as the original was, with as many as its training and the healing together"
    return (
        "Each control was trained with as many examples, and on the same schedule, as the pruned network was healed"
        f"{full if 'scratch_full' in history.controls else ''}."
    )


def training_examples(history: PruningHistory, step: PruningStep) -> int:
    """Examples that a network of `rows_of` was trained on after the original was there."""
    steps = history.iterations[: history.selected + 1] if step is history.after else (step,)
    return sum(each.healing.samples_seen for each in steps if each.healing)


def noise_of(metrics: EvalMetrics) -> float:
    """Half-width in points of the 95 % interval that so many examples leave an accuracy (Wilson's: 0 for none)."""
    share, n, z = metrics.accuracy, metrics.samples, 1.96
    return 100 * z * math.sqrt(share * (1 - share) / n + (z / n) ** 2 / 4) / (1 + z * z / n)


def macs_label(cost: Cost) -> str:
    """What tables call multiply-accumulates of one example, and of how many tokens where it has some.

    >>> macs_label(Cost(1, 1, tokens=128))
    'MACs, 128 tokens'
    """
    return "MACs" if cost.tokens is None else f"MACs, {cost.tokens} tokens"


def latency_text(latency: Latency | None) -> str:
    """Median and p90 in ms; a median that means nothing, because the machine was busy, is marked with `?`.

    >>> latency_text(Latency(0.7, 0.75, 1, 1, "cpu", "float32"))
    '0.70 (0.75)'
    >>> latency_text(Latency(758.0, 2000.0, 1, 2, "cpu", "float32"))
    '758.00? (2000.00)'
    """
    if latency is None:
        return "-"
    mark = "" if latency.is_steady else "?"
    return f"{latency.median_ms:.2f}{mark}" + ("" if latency.p90_ms is None else f" ({latency.p90_ms:.2f})")


def plot_trajectory(history: PruningHistory, path: Path) -> None:
    """Draws quality against MACs reduction, and the importance of every block in every iteration, as a PNG.

    Args:
        history: A run.
        path: File to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    accuracy_axes, score_axes = figure.subplots(1, 2)
    reductions = [100 * history.macs_reduction(step) for step in history.iterations]
    for split, metrics in history.before.metrics.items():
        figure_name = next(iter(metrics.figures))
        values = [step.metrics[split].figures[figure_name] for step in history.iterations]
        accuracy_axes.plot(reductions, values, marker="o", markersize=4, label=in_figure(split))
    for marker, (name, control) in zip("sD^vP*", history.controls.items(), strict=False):
        value = control.metrics[history.shown_split].figures[figure_name]
        label = in_figure(CONTROLS.get(name, name))
        accuracy_axes.plot(100 * history.macs_reduction(control), value, marker, markersize=5, label=label)
    accuracy_axes.axvline(reductions[history.selected], color="grey", linewidth=0.8, linestyle=":")
    accuracy_axes.set(xlabel="MACs removed (%)", ylabel=in_figure(figure_name), title="Trajectory")
    accuracy_axes.grid(alpha=0.3)
    accuracy_axes.legend()

    if any(step.scores for step in history.iterations):
        draw_scores(figure, score_axes, history)
    else:
        score_axes.set_axis_off()
    figure.savefig(path, dpi=120)


def draw_scores(figure: Any, score_axes: Any, history: PruningHistory) -> None:
    """The importance of every block in every iteration."""
    from matplotlib.colors import LogNorm

    pruned = [step for step in history.iterations if step.scores]
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
    criterion = history.recipe.get("prune", history.recipe).get("criterion", "cka")
    figure.colorbar(image, ax=score_axes, label=in_figure(f"importance ({criterion})"))
