"""`har-prune gate`: whether a run is good enough, for continuous integration."""

from pathlib import Path
from typing import Annotated

import typer


def gate(
    run: Annotated[Path, typer.Argument(help="Folder of a run that has ended, or its history.json.")],
    max_drop: Annotated[
        float | None, typer.Option(help="Points of 100 the metric may fall below the original's, e.g. 0.5.")
    ] = None,
    metric: Annotated[str, typer.Option(help="accuracy, macro_f1, balanced_accuracy or trial_accuracy.")] = "accuracy",
    beats: Annotated[
        list[str] | None, typer.Option(help="A control whose metric must be reached, e.g. scratch. Repeatable.")
    ] = None,
    min_speedup: Annotated[float | None, typer.Option(help="Times faster than the original.")] = None,
    min_macs_reduction: Annotated[float | None, typer.Option(help="Share of the MACs that must be gone.")] = None,
    max_size_mib: Annotated[float | None, typer.Option(help="Of the saved weights.")] = None,
) -> None:
    """Holds a run, or all its folds together, against limits: exit code 0 where all hold, 1 where one does not."""
    from har_prune.pruning.store import history_at
    from har_prune.reporting.folds import folds_at
    from har_prune.reporting.gate import Limits, check_run, gate_table
    from har_prune.runtime.console import Console

    limits = Limits(max_drop, metric, min_speedup, min_macs_reduction, max_size_mib, tuple(beats or ()))
    folds = [history for seeds in folds_at(run).values() for history in seeds]
    checks = check_run(folds or [history_at(run)], limits)
    Console().print(gate_table(checks))
    raise typer.Exit(0 if all(check.holds for check in checks) else 1)
