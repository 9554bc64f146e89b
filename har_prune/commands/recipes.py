"""`har-prune recipes`: those that come with har_prune, and checks of one's own."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Recipes that come with har_prune: list, copy, check.")


@app.command("list")
def show() -> None:
    """Lists the recipes that come with har_prune; each runs by its name."""
    from har_prune.recipe.load import shipped_recipes

    for name, path in shipped_recipes().items():
        print(f"{name:22} {_about(path)}")


def _about(path: Path) -> str:
    """The first sentence of the paragraph behind the commands a recipe opens with."""
    lines = path.read_text(encoding="utf-8").partition("#\n")[2].splitlines()
    text = " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))
    return text.partition(". ")[0].rstrip(".") + "."


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="As `har-prune recipes list` shows it.")],
    path: Annotated[Path, typer.Argument(help="File to write.")],
) -> None:
    """Copies a recipe, to be edited; one that has a base is written out whole."""
    import yaml

    from har_prune.errors import OutputFolderError
    from har_prune.recipe.load import find_recipe, read_values

    if path.exists():
        raise OutputFolderError(f"{path} exists: choose another name, or remove it first.")
    origin = find_recipe(name)
    values = read_values(origin)
    if yaml.safe_load(origin.read_text(encoding="utf-8")) == values:
        shutil.copyfile(origin, path)  # with its comments
        print(f"{path}: run it with `har-prune run {path}`")
        return
    opening = [line for line in origin.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    path.write_text("\n".join([*opening, text]), encoding="utf-8")
    print(f"{path}: run it with `har-prune run {path}`")


@app.command()
def validate(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or a name.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, dotted")] = None,
) -> None:
    """Checks keys and values of a recipe; data and network are not looked at (`run --dry-run` does)."""
    from har_prune.recipe.load import load_recipe

    load_recipe(recipe, overrides or ())
    print(f"{recipe}: valid")
