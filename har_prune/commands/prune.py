"""`har-prune prune`: a recipe from options; it is kept in the output folder, and `har-prune run` repeats it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from har_prune.commands.options import (
    Data,
    DataRevision,
    DataSubset,
    NumThreads,
    Rename,
    Revision,
    TestSubject,
    Trust,
    renamed,
)
from har_prune.commands.run import DryRun, Plugins


def prune(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a trained classifier or language model.")],
    data: Data,
    overrides: Annotated[list[str] | None, typer.Argument(help="Any other key of a recipe, key=value.")] = None,
    macs_reduction: Annotated[float | None, typer.Option(help="Share of the MACs to remove, e.g. 0.4.")] = None,
    parameters: Annotated[int | None, typer.Option(help="Parameters to leave, at most.")] = None,
    size_mib: Annotated[float | None, typer.Option(help="Size of the weights in MiB, at most.")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Time of one example on this machine, at most.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Blocks to leave, at most.")] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Validation accuracy never to fall below.")] = None,
    structure: Annotated[
        list[str] | None, typer.Option(help="What is removed: blocks, widths; twice for both. [blocks]")
    ] = None,
    criterion: Annotated[str, typer.Option(help="What importance is; see `har-prune score`.")] = "cka",
    samples: Annotated[int, typer.Option(help="Examples the criterion sees.")] = 1024,
    epochs: Annotated[float, typer.Option(help="Of healing, once at the end; 0: none.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Of healing, AdamW.")] = 1e-4,
    distill: Annotated[bool, typer.Option("--distill/--labels-only", help="Whether the original teaches.")] = True,
    batch_size: Annotated[int, typer.Option()] = 64,
    test_subject: TestSubject = None,
    rename_channel: Rename = None,
    revision: Revision = None,
    data_revision: DataRevision = None,
    data_subset: DataSubset = None,
    trust_remote_code: Trust = False,
    num_threads: NumThreads = None,
    seed: Annotated[int, typer.Option()] = 0,
    push_to_hub: Annotated[str | None, typer.Option(help="owner/name to push the result to.")] = None,
    plugin: Plugins = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run. [runs/NAME-pruned]")] = None,
    dry_run: DryRun = False,
) -> None:
    """Prunes a checkpoint: removes the least important blocks until all budgets hold, heals, saves."""
    from har_prune.checkpoints.provenance import folder_name
    from har_prune.recipe.load import apply_overrides, recipe_of
    from har_prune.recipe.steps import launch_recipe

    target = {
        "macs_reduction": macs_reduction,
        "parameters": parameters,
        "size_mib": size_mib,
        "latency_ms": latency_ms,
        "blocks": blocks,
        "min_accuracy": min_accuracy,
    }
    heal = {"epochs": epochs, "learning_rate": learning_rate, "distill": distill}
    values: dict[str, Any] = {
        "seed": seed,
        "output_dir": str(output or Path("runs", f"{folder_name(checkpoint)}-pruned")),
        "data": {
            "name_or_path": data,
            "subset": data_subset,
            "revision": data_revision,
            "protocol": "holdout" if test_subject else "official",
            "test_subjects": test_subject,
            "rename_channels": renamed(rename_channel),
            "batch_size": batch_size,
        },
        "model": {"name_or_path": checkpoint, "revision": revision, "trust_remote_code": trust_remote_code},
        "prune": {
            "target": target,
            "structures": structure or None,
            "criterion": criterion,
            "calibration": {"samples": samples},
        },
        "heal": heal if epochs else None,
        "num_threads": num_threads,
        "plugins": plugin,
        "save": {"push_to_hub": push_to_hub},
    }
    values = _given(values)
    values["prune"].setdefault("target", {})
    apply_overrides(values, overrides or ())
    recipe = recipe_of(values, "what these options stand for")
    launch_recipe(recipe, f"har-prune {shlex.join(sys.argv[1:])}", dry_run=dry_run)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was not asked for: the recipe that is kept says what was, and defaults say the rest."""
    inner = {key: _given(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in inner.items() if value is not None and value is not False and value != {}}
