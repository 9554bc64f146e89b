"""Whether a run is good enough to go on with: limits on its record, for somebody's continuous integration."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from har_prune.errors import RecipeError, did_you_mean
from har_prune.evaluation.metrics import EvalMetrics
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.folds import PRUNED, UNPRUNED, networks_of
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


def check_run(runs: Sequence[PruningHistory], limits: Limits) -> list[Check]:
    """Holds a run against limits.

    Args:
        runs: Its record; of a run with `test_subject: all` those of every fold and seed. A metric is their mean then,
            as in the tables of all folds, and what a network costs has to hold in each.
        limits: What is asked.

    Raises:
        RecipeError: Nothing is asked, or what is asked was not measured.
    """
    checks = [*_checks_of_metric(runs, limits), *_checks_of_cost(runs, limits)]
    if not checks:
        raise RecipeError(
            "nothing is asked: give --max-drop, --beats, --min-speedup, --min-macs-reduction or --max-size-mib."
        )
    return checks


def _checks_of_metric(runs: Sequence[PruningHistory], limits: Limits) -> Iterator[Check]:
    split = runs[0].shown_split
    what = f"{split} {limits.metric}" if len(runs) == 1 else f"{split} {limits.metric}, mean of {len(runs)} runs"
    networks = networks_of({"": runs})

    def percent(network: str) -> float:
        return 100 * fmean(_value(networks[network](run).metrics[split], limits.metric) for run in runs)

    value = percent(PRUNED)
    if limits.max_drop is not None:
        drop = round(percent(UNPRUNED) - value, 9)
        allowed = f"at most {limits.max_drop:g}"
        yield Check(f"{what}, drop in points", f"{drop:.2f}", allowed, drop <= limits.max_drop)
    for name in limits.beats:
        if f"control {name}" not in networks:
            known = ", ".join(there for there in runs[0].controls if f"control {there}" in networks) or "none"
            raise RecipeError(
                f"control {name!r} is not in this run (there: {known}).{did_you_mean(name, CONTROLS)} Add it to "
                "`controls` of the recipe and run it again."
            )
        wanted = percent(f"control {name}")
        beside = f"{what}, %, beside: {CONTROLS.get(name, name)}"
        yield Check(beside, f"{value:.2f}", f"at least {wanted:.2f}", round(wanted - value, 9) <= 0)


def _checks_of_cost(runs: Sequence[PruningHistory], limits: Limits) -> Iterator[Check]:
    costs = [run.after.cost for run in runs]
    if limits.min_speedup is not None:
        latencies = [cost.latency for cost in costs if cost.latency]
        speedups = [latency.speedup for latency in latencies if latency.speedup is not None]
        if len(speedups) < len(runs):
            raise RecipeError(
                "min_speedup: no latency was measured in this run; set evaluate.latency and run it again."
            )
        slowest, steady = min(speedups), all(latency.is_steady for latency in latencies)
        found = f"{slowest:.2f}" if steady else f"{slowest:.2f}?, the machine was busy"
        allowed = f"at least {limits.min_speedup:g}"
        yield Check("times faster", found, allowed, steady and slowest >= limits.min_speedup)
    if limits.min_macs_reduction is not None:
        gone = round(min(run.macs_reduction(run.after) for run in runs), 9)
        allowed = f"at least {limits.min_macs_reduction:g}"
        yield Check("share of the MACs removed", f"{gone:.4f}", allowed, gone >= limits.min_macs_reduction)
    if limits.max_size_mib is not None:
        sizes = [cost.size_bytes for cost in costs if cost.size_bytes is not None]
        if len(sizes) < len(runs):
            raise RecipeError("max_size_mib: this run was recorded by har_prune 0.1, which kept no size.")
        mib = max(sizes) / 2**20
        yield Check("size, MiB", f"{mib:.3f}", f"at most {limits.max_size_mib:g}", mib <= limits.max_size_mib)


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
