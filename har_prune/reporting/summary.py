"""The table a run ends with: before and after."""

from rich.table import Table

from har_prune.pruning.history import PruningHistory, PruningStep


def summary_table(history: PruningHistory) -> Table:
    """Blocks, MACs, parameters, latency and quality of the unpruned and the selected network.

    Quality is that on the "test" set, or on "validation" where there is none.
    """
    before, after = history.iterations[0], history.iterations[history.selected]
    split = "test" if "test" in before.quality else "validation"
    table = Table(title="Before and after pruning")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for label, old, new, form in _rows(before, after, split):
        change = f"{new - old:+.2f} points" if label.endswith("%") else f"{100 * (new - old) / old:+.1f} %"
        table.add_row(label, form.format(old), form.format(new), change)
    return table


def _rows(before: PruningStep, after: PruningStep, split: str) -> list[tuple[str, float, float, str]]:
    rows: list[tuple[str, float, float, str]] = [
        ("blocks", len(before.remaining), len(after.remaining), "{:,}"),
        ("MACs", before.macs, after.macs, "{:,}"),
        ("parameters", before.parameters, after.parameters, "{:,}"),
    ]
    if before.latency_ms is not None and after.latency_ms is not None:
        rows.append(("latency, one example, ms", before.latency_ms, after.latency_ms, "{:.2f}"))
    old, new = before.quality[split], after.quality[split]
    return [
        *rows,
        *((f"{split} {name}", value, new.figures[name], "{:.2f}") for name, value in old.figures.items()),
    ]
