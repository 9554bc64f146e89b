"""The table a run ends with: before and after."""

from rich.table import Table

from har_prune.evaluation.latency import Latency
from har_prune.evaluation.measurement import figures_of
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.reporting.names import in_terminal
from har_prune.reporting.trajectory import latency_text, macs_label, rows_of


def summary_table(history: PruningHistory) -> Table:
    """Blocks, costs and metrics of the unpruned and the selected network, on the split the history shows."""
    before, after, split = history.before, history.after, history.shown_split
    table = Table(title="Before and after pruning")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for label, old, new, form in _rows(before, after, split):
        share = f"{100 * (new - old) / old:+.1f} %" if old else "-"
        change = f"{new - old:+.2f} points" if label.endswith("%") else share
        table.add_row(in_terminal(label), form.format(old), form.format(new), change)
    latency = _latency_row(before.cost.latency, after.cost.latency)
    if latency is not None:
        table.add_row(*latency)
    return table


def controls_table(history: PruningHistory) -> Table:
    """The result beside its controls, on the split the history shows."""
    split = history.shown_split
    table = Table(title="Beside its controls")
    table.add_column("")
    for name in ("blocks", "MACs", *(f"{split} {figure}" for figure in history.after.metrics[split].figures)):
        table.add_column(in_terminal(name), justify="right")
    for name, step in rows_of(history).items():
        figures = [f"{value:.2f}" for value in step.metrics[split].figures.values()]
        style = "bold" if step is history.after else None
        table.add_row(name, str(len(step.remaining)), f"{step.cost.macs:,}", *figures, style=style)
    return table


def _rows(before: PruningStep, after: PruningStep, split: str) -> list[tuple[str, float, float, str]]:
    rows: list[tuple[str, float, float, str]] = [
        ("blocks", len(before.remaining), len(after.remaining), "{:,}"),
        (macs_label(before.cost), before.cost.macs, after.cost.macs, "{:,}"),
        ("parameters", before.cost.parameters, after.cost.parameters, "{:,}"),
    ]
    for name, old_bytes, new_bytes in (
        ("size, KiB", before.cost.size_bytes, after.cost.size_bytes),
        ("activations at their peak, KiB", before.cost.activation_bytes, after.cost.activation_bytes),
    ):
        if old_bytes is not None and new_bytes is not None:
            rows.append((name, old_bytes / 1024, new_bytes / 1024, "{:,.0f}"))
    old, new = before.metrics[split].figures, after.metrics[split].figures
    rows += [(f"{split} {name}", value, new[name], "{:.2f}") for name, value in old.items()]
    old, new = figures_of(before.measured), figures_of(after.measured)
    return [*rows, *((name, old[name], value, "{:.2f}") for name, value in new.items() if name in old)]


def _latency_row(before: Latency | None, after: Latency | None) -> tuple[str, str, str, str] | None:
    """Both networks in one measurement, where they took turns; each in its own in records of 0.1."""
    if before is None or after is None:
        return None
    original_ms = before.median_ms if after.original_ms is None else after.original_ms
    change = f"{100 * (after.median_ms / original_ms - 1):+.1f} %" if after.is_steady else "no meaning: p90 far off"
    count = "one example" if after.batch == 1 else f"{after.batch} examples"
    name = f"latency, {count}, ms" + ("" if after.p90_ms is None else " (p90)")
    return name, f"{original_ms:.2f}", latency_text(after), change
