"""Pages that are made of the code while the site is built: every key of a recipe, every command of the console."""

from typing import Any

import typer
from pydantic import BaseModel

from har_prune.commands.app import app
from har_prune.recipe.schema import Recipe


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills the two places that are marked."""
    return markdown.replace("<!-- recipe keys -->", recipe_keys()).replace("<!-- console -->", console())


def recipe_keys() -> str:
    """A table a section, from the settings themselves."""
    lines: list[str] = []
    _section(Recipe, "", lines)
    return "\n".join(lines)


def _section(settings: type[BaseModel], prefix: str, lines: list[str]) -> None:
    lines += ["", f"## {prefix.rstrip('.') or 'A whole run'}", "", "| key | default | meaning |", "|---|---|---|"]
    inner: list[tuple[type[BaseModel], str]] = []
    for name, field in settings.model_fields.items():
        part = _settings_in(field.annotation)
        default = "needed" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        if part is not None:
            inner.append((part, f"{prefix}{name}."))
            default = "needed" if field.is_required() else "see there"
        meaning = (field.description or (part.__doc__ or "").partition("\n")[0] if part else field.description) or ""
        lines.append(f"| `{name}` | {default} | {meaning.replace('|', chr(92) + '|')} |")
    for part, path in inner:
        _section(part, path, lines)


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in getattr(annotation, "__args__", ()) if (found := _settings_in(each))), None)


def _plain(value: Any) -> str:
    return "null" if value is None else "[]" if value == () else str(value)


def console() -> str:
    """The help of every command, as it is printed."""
    lines: list[str] = []
    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        lines += ["", f"## har-prune {name}", ""]
        parts = getattr(command, "commands", None)
        for part in [command] if parts is None else [parts[key] for key in sorted(parts)]:
            lines += [*([f"### har-prune {name} {part.name}", ""] if parts else []), part.help or "", ""]
            lines += ["| | |", "|---|---|"]
            for parameter in part.params:
                shown = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
                shown = shown if shown.startswith("`-") else f"`{parameter.name.upper()}`"
                lines.append(f"| {shown} | {(getattr(parameter, 'help', '') or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines)
