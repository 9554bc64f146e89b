"""`har-prune run`: a whole recipe; what `accelerate launch har_prune/run.py` does, in one process."""

import shlex
import sys
from typing import Annotated

import typer

Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", help="Module to import: your own families or criteria."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show recipe, blocks and cost, and stop.")]


def run(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or the name of one: see `har-prune recipes list`.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, dotted: prune.target.blocks=12")] = None,
    plugin: Plugins = None,
    dry_run: DryRun = False,
) -> None:
    """Prunes a network as a recipe says; started again, it continues."""
    from har_prune.recipe.load import load_recipe
    from har_prune.recipe.steps import launch_recipe

    program = "accelerate launch har_prune/run.py" if sys.argv[0].endswith("run.py") else "har-prune run"
    named = [part for module in plugin or () for part in ("--plugin", module)]
    command = f"{program} {shlex.join([recipe, *(overrides or ()), *named])}"
    launch_recipe(load_recipe(recipe, overrides or (), plugin or ()), command, dry_run=dry_run)
