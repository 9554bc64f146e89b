"""`accelerate launch har_prune/run.py RECIPE [key=value ...]`: a whole run, from data to a verified checkpoint.

Thin: it reads the recipe and calls the steps. Started again with the same recipe it continues where it was stopped.
"""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(Path(__file__).resolve().parent):
    # Launched as a file, Python puts this folder first, and har_prune.data would shadow any module called data.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import shlex
from typing import Annotated

import typer

from har_prune.errors import HarPruneError
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.folds import folds_of, is_all_folds
from har_prune.recipe.load import load_recipe
from har_prune.recipe.steps import launch, launch_folds, show_plan
from har_prune.runtime.console import console, quiet_libraries

app = typer.Typer(add_completion=False)


@app.command()
def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, see recipes/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, dotted: prune.target.blocks=12")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show recipe, blocks and cost, and stop.")] = False,
) -> None:
    """Prunes a network as a recipe says; started again, it continues."""
    try:
        resolved = load_recipe(recipe, overrides)
        command = shlex.join(["accelerate", "launch", "har_prune/run.py", *sys.argv[1:]])
        if dry_run:
            console.quiet = not make_accelerator(resolved.precision, resolved.num_threads).is_main_process
            show_plan(next(iter(folds_of(resolved).values())) if is_all_folds(resolved) else resolved)
        elif is_all_folds(resolved):
            launch_folds(resolved, command)
        else:
            launch(resolved, command)
    except (HarPruneError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    quiet_libraries()
    app()
