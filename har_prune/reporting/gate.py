"""Whether a run is good enough to go on with: limits on its record, for somebody's continuous integration."""

from dataclasses import dataclass

from rich.table import Table

from har_prune.errors import RecipeError, did_you_mean
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.names import in_terminal
from har_prune.reporting.trajectory import CONTROLS

METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "trial_accuracy")


@dataclass(frozen=True)
class Limits:
    """What is asked of the pruned network; None = nothing.

    Args:
        max_drop: Points (of 100) that the metric may fall below the original's; negative: it must rise.
        metric: One of `METRICS`.
        min_speedup: Times faster than the original, in the latency that was measured in turns.
        min_macs_reduction: Share of the MACs that must be gone, in [0, 1).
        max_size_mib: Of the saved weights.
        beats: Controls whose metric it must reach.
    """

    max_drop: float | None = None
    metric: str = "accuracy"
    min_speedup: float | None = None
    min_macs_reduction: float | None = None
    max_size_mib: float | None = None
    beats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Check:
    """One limit, what was found, and whether it holds."""

    what: str
    found: str
    allowed: str
    holds: bool


def check_run(history: PruningHistory, limits: Limits) -> list[Check]:
    """Holds a run against limits.

    Args:
        history: The run.
        limits: What is asked.

    Raises:
        RecipeError: Nothing is asked, or what is asked was not measured.
    """
    split, before, after = history.shown_split, history.before, history.after
    checks = []
    value = 100 * _value(after.metrics[split], limits.metric)
    if limits.max_drop is not None:
        drop = 100 * _value(before.metrics[split], limits.metric) - value
        checks.append(
            Check(f"{split} {limits.metric}, drop in points", f"{drop:.2f}", f"at most {limits.max_drop:g}",
                  round(drop, 9) <= limits.max_drop)
        )  # fmt: skip
    for name in limits.beats:
        if name not in history.controls:
            known = ", ".join(history.controls) or "none"
            raise RecipeError(
                f"control {name!r} is not in this run (there: {known}).{did_you_mean(name, CONTROLS)} Add it to "
                "`controls` of the recipe and run it again."
            )
        wanted = 100 * _value(history.controls[name].metrics[split], limits.metric)
        what = f"{split} {limits.metric} %, beside: {CONTROLS.get(name, name)}"
        checks.append(Check(what, f"{value:.2f}", f"at least {wanted:.2f}", value >= wanted))
    if limits.min_speedup is not None:
        latency = after.cost.latency
        if latency is None or latency.speedup is None:
            raise RecipeError(
                "min_speedup: no latency was measured in this run; set evaluate.latency and run it again."
            )
        found = f"{latency.speedup:.2f}" if latency.is_steady else f"{latency.speedup:.2f}?, the machine was busy"
        holds = latency.is_steady and latency.speedup >= limits.min_speedup
        checks.append(Check("times faster", found, f"at least {limits.min_speedup:g}", holds))
    if limits.min_macs_reduction is not None:
        gone = round(history.macs_reduction(after), 9)
        allowed = f"at least {limits.min_macs_reduction:g}"
        checks.append(Check("share of the MACs removed", f"{gone:.4f}", allowed, gone >= limits.min_macs_reduction))
    if limits.max_size_mib is not None:
        if after.cost.size_bytes is None:
            raise RecipeError("max_size_mib: this run was recorded by har_prune 0.1, which kept no size.")
        mib = after.cost.size_bytes / 2**20
        allowed = f"at most {limits.max_size_mib:g}"
        checks.append(Check("size, MiB", f"{mib:.3f}", allowed, mib <= limits.max_size_mib))
    if not checks:
        raise RecipeError(
            "nothing is asked: give --max-drop, --beats, --min-speedup, --min-macs-reduction or --max-size-mib."
        )
    return checks


def _value(metrics: EvalMetrics, metric: str) -> float:
    if metric not in METRICS:
        raise RecipeError(
            f"metric {metric!r} is unknown (known: {', '.join(METRICS)}).{did_you_mean(metric, METRICS)}"
        )
    value = getattr(metrics, metric)
    if value is None:
        raise RecipeError(f"metric {metric!r} was not measured in this run; choose another one.")
    return float(value)


def gate_table(checks: list[Check]) -> Table:
    """The checks, one a row."""
    table = Table(title="Gate")
    for name in ("", "found", "allowed", "holds"):
        table.add_column(name, justify="left" if not name else "right")
    for check in checks:
        style = None if check.holds else "bold red"
        table.add_row(in_terminal(check.what), check.found, check.allowed, "yes" if check.holds else "NO", style=style)
    return table
