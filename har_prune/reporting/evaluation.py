"""What `har-prune evaluate` prints: a network's parts, figures and robustness."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from transformers import PreTrainedModel

from har_prune.evaluation.cost import Cost
from har_prune.evaluation.measurement import figures_of
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.evaluation.robustness.measure import Robustness, corruption_error
from har_prune.reporting.names import in_terminal
from har_prune.reporting.robustness import robustness_table
from har_prune.reporting.trajectory import latency_text, macs_label

Found = Mapping[str, tuple[EvalMetrics, Cost, Mapping[str, Any]]]  # by checkpoint; the one to compare with first


def modules_table(model: PreTrainedModel, macs: Mapping[str, int]) -> Table:
    """Multiply-accumulates and parameters of each part of a network."""
    modules, total = dict(model.named_modules()), max(1, sum(macs.values()))
    table = Table(title="Where the multiply-accumulates are, one example")
    table.add_column("module", overflow="fold")
    for name in ("MACs", "share %", "parameters"):
        table.add_column(name, justify="right")
    for name, count in macs.items():
        parameters = f"{sum(value.numel() for value in modules[name].parameters()):,}" if name in modules else "-"
        table.add_row(in_terminal(name), f"{count:,}", f"{100 * count / total:.1f}", parameters)
    return table


def network_table(found: Found) -> Table:
    """Metrics and cost, one column a checkpoint."""
    table = Table(title="On the examples that test")
    table.add_column("")
    for name in found:
        table.add_column(in_terminal(name), justify="right", overflow="fold")
    rows: dict[str, list[str]] = {}
    for metrics, cost, measured in found.values():
        figures = {name: f"{value:.2f}" for name, value in metrics.figures.items()}
        if metrics.balanced_accuracy is not None:
            figures["balanced accuracy %"] = f"{100 * metrics.balanced_accuracy:.2f}"
        if metrics.calibration_error is not None:
            figures["calibration error %"] = f"{100 * metrics.calibration_error:.2f}"
        figures |= {
            "examples": f"{metrics.samples:,}",
            macs_label(cost): f"{cost.macs:,}",
            "parameters": f"{cost.parameters:,}",
            "size, KiB": f"{(cost.size_bytes or 0) / 1024:,.0f}",
            "activations at their peak, KiB": f"{(cost.activation_bytes or 0) / 1024:,.0f}",
            "latency, one example, ms (p90)": latency_text(cost.latency),
            **{name: f"{value:.2f}" for name, value in figures_of(measured).items()},
        }
        for name, value in figures.items():
            rows.setdefault(name, []).append(value)
    robust = [m["robustness"] for _, _, m in found.values() if isinstance(m.get("robustness"), Robustness)]
    if len(robust) > 1:
        errors = (corruption_error(each, robust[0]) for each in robust)
        cells = ["-" if error is None else f"{error:.1f}" for error in errors]
        rows["mean corruption error, % of the first"] = cells
    for name, cells in rows.items():
        table.add_row(in_terminal(name), *cells)
    return table


def robustness_tables(found: Found) -> list[Table]:
    """Accuracy by severity, a table for each checkpoint that it was measured of."""
    measured = {name: kinds.get("robustness") for name, (_, _, kinds) in found.items()}
    tables = []
    for name, robustness in measured.items():
        if isinstance(robustness, Robustness):
            table = robustness_table(robustness)
            table.caption = in_terminal(name)
            tables.append(table)
    return tables
