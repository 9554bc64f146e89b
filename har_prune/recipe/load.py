"""Reads a recipe: a YAML file, what it is based on, overrides, and the plugins it names."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from har_prune.errors import RecipeError, did_you_mean
from har_prune.recipe.schema import Recipe

_Kind = TypeVar("_Kind", bound=BaseModel)
_BASE = "base"


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with har_prune, by name: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).parent.parent / "recipes"
    folder = inside if inside.is_dir() else inside.parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with har_prune.

    Raises:
        RecipeError: There is none.
    """
    path, known = Path(name), shipped_recipes()
    if path.is_file():
        return path
    if str(name) in known:
        return known[str(name)]
    what = "is not a file" if path.exists() else "does not exist"
    raise RecipeError(
        f"recipe {name} {what}, and none of that name comes with har_prune ({', '.join(known)})."
        f"{did_you_mean(path.stem, known)}"
    )


def load_recipe(path: str | Path, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe.

    Args:
        path: A YAML file, or the name of a recipe that comes with har_prune. Its key `base` names another one,
            relative to it, whose values hold where it says nothing else.
        overrides: "key=value" by dotted path, e.g. "prune.target.macs_reduction=0.4"; the value is read as YAML.
        plugins: Modules to load beside those of its key `plugins`.

    Raises:
        RecipeError: The file is missing or not a YAML mapping, or keys or values are wrong: all of them at once.
    """
    path = find_recipe(path)
    values = read_values(path)
    apply_overrides(values, overrides)
    if plugins:
        values["plugins"] = [*(values.get("plugins") or ()), *plugins]
    return recipe_of(values, f"recipe {path}")


def recipe_of(values: dict[str, Any], name: str) -> Recipe:
    """A recipe of plain values, with its plugins loaded: it may name what they register.

    Raises:
        RecipeError: Keys or values are wrong, or a plugin cannot be loaded.
    """
    recipe = settings_of(Recipe, values, name)
    load_plugins(recipe.plugins)
    return recipe


def settings_of(kind: type[_Kind], values: dict[str, Any], name: str) -> _Kind:
    """Settings of plain values.

    Raises:
        RecipeError: Keys or values are wrong; `name` says whose.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise RecipeError(f"{name} has {len(problems)} problem(s):\n" + "\n".join(problems)) from error


def load_plugins(modules: Sequence[str]) -> None:
    """Imports modules that register families, criteria or measurements; those in the working directory are found too.

    Raises:
        RecipeError: One does not exist, or fails when it is imported.
    """
    if modules and "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # behind what is installed: a file here hides no library
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise RecipeError(
                f"plugin {module!r} cannot be imported ({error}): give the name of a module that is installed or lies "
                "in the working directory."
            ) from error
        except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
            raise RecipeError(
                f"plugin {module!r} fails when it is imported: {type(error).__name__}: {error}"
            ) from error


class _Loader(yaml.SafeLoader):
    """Safe, and without what hides a mistake: a key given twice, of which YAML keeps the last, and aliases."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", event.start_mark)
        return super().compose_node(parent, index)


def _parsed(text: str) -> Any:
    return yaml.load(text, _Loader)


def read_values(path: Path) -> dict[str, Any]:
    """The values of a recipe's file and of those it is based on, unchecked.

    Raises:
        RecipeError: A file is missing or not a YAML mapping.
    """
    return _read(path, ())


def _read(path: Path, readers: tuple[Path, ...]) -> dict[str, Any]:
    """The values of a file on top of those of its base."""
    if path.resolve() in readers:
        raise RecipeError(f"recipe {path} is its own base: {' -> '.join(known.name for known in readers)}.")
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:  # or one that is nested 5,000 deep
        raise RecipeError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"recipe {path} is not a mapping of keys to values.")
    base = values.pop(_BASE, None)
    if base is None:
        return values
    below = path.parent / str(base)
    if not below.is_file():
        below = shipped_recipes().get(str(base), below)
    if not isinstance(base, str) or not below.is_file():
        raise RecipeError(
            f"recipe {path}: base {base!r} is no file beside it; give a path relative to it, or the name of one "
            "that comes with har_prune."
        )
    return _merged(_read(below, (*readers, path.resolve())), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(below[key], value) for key, value in above.items()
            if isinstance(value, dict) and isinstance(below.get(key), dict)}  # fmt: skip
    return {**below, **above, **both}


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets values by dotted path, in place.

    Raises:
        RecipeError: One is not "key=value", or goes through what is no section.
    """
    for override in overrides:
        _apply(values, override)


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"override {override!r} is not key=value, e.g. prune.target.macs_reduction=0.4.")
    *sections, key = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if inner is None:
            inner = values[section] = {}
        if not isinstance(inner, dict):
            raise RecipeError(f"override {override!r}: {section!r} is not a section.")
        values = inner
    try:
        values[key] = _parsed(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"override {override!r}: the value is not YAML ({error}).") from error


def _explain(problem: Any) -> str:
    """One line: where, what came, what is allowed."""
    where = ".".join(map(str, problem["loc"])) or "recipe"
    if problem["type"] == "missing":
        return f"  {where}: missing."
    message = problem["msg"].removeprefix("Value error, ").rstrip(".")
    shown = not isinstance(problem["input"], (dict, BaseModel)) and problem["type"] not in ("bool", "unknown_key")
    came = f" (got {problem['input']!r})" if shown else ""
    return f"  {where}: {message}{came}."
