"""`har-prune space`: a web page with the original and the pruned network side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

    from har_prune.recipe.schema import Recipe

_WINDOWS = 5  # of each activity


def space(
    run: Annotated[Path, typer.Argument(help="Folder of a run over sensor data that has ended.")],
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    original: Annotated[str | None, typer.Option(help="Folder or Hub id. [what the run began with]")] = None,
    sample: Annotated[
        Path | None, typer.Option(help="A recording to begin with. [windows of the run's test data]")
    ] = None,
) -> None:
    """Writes a folder that serves a demo (extra demo), here or as a Space on the Hub."""
    from har_prune.checkpoints.load import Checkpoint
    from har_prune.errors import DataError
    from har_prune.inference.pipeline import HarPipeline
    from har_prune.inference.space import write_space
    from har_prune.recipe.load import load_recipe
    from har_prune.runtime.console import say

    if not (run / "pruned").is_dir() or not (run / "recipe.yaml").is_file():
        raise DataError(f"{run} is no folder of a run that has ended: it has no pruned/ and recipe.yaml.")
    HarPipeline.from_pretrained(run / "pruned")  # is it one of sensor windows?
    recipe = load_recipe(run / "recipe.yaml")
    began = Checkpoint(str(run / "original")) if (run / "original").is_dir() else recipe.model.checkpoint
    before = Checkpoint(original) if original is not None else began
    if before is None:
        raise DataError(f"{run} does not say what it began with: give --original.")
    write_space(output, before, run / "pruned", _windows(run, recipe) if sample is None else sample)
    say(f"Space: {output}; `python {output}/app.py` serves it")


def _windows(run: Path, recipe: "Recipe") -> "pd.DataFrame":
    """Windows that the run tested on, activity by activity, as one recording.

    Raises:
        DataError: The run's data are not there any more.
    """
    import numpy as np
    import pandas as pd

    from har_prune.checkpoints.load import Checkpoint
    from har_prune.errors import DataError, HarPruneError
    from har_prune.exporters.deployed import deployed, raw_inputs
    from har_prune.recipe.prepare import prepared_for

    try:
        made = prepared_for(Checkpoint(run / "pruned"), recipe.data, recipe.seed)
    except HarPruneError as error:
        raise DataError(f"{error} Name a recording of your own: --sample FILE.") from error
    test, labels = made.splits.test, np.asarray(made.data.labels)
    # Windows overlap by half as a rule: every second one.
    chosen = np.concatenate([test[labels[test] == label][::2][:_WINDOWS] for label in np.unique(labels[test])])
    raw = raw_inputs(made.preprocess(made.data.raw(chosen)), made.processor)
    real = raw["mask"].numpy() > 0
    facts = deployed(made.model, made.processor).facts
    table = pd.DataFrame(raw["windows"].numpy()[real], columns=facts["channels"])
    names = np.asarray(made.data.label_names, dtype=object)[labels[chosen]]
    table.insert(0, "time", np.arange(len(table)) / facts["sampling_rate_hz"])
    return table.assign(label=np.repeat(names, real.sum(1)))
