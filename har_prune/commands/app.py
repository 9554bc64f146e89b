"""The console command `har-prune`. Bad input is one message and exit code 2: made here, and nowhere else.

Commands import what they need when they run: help and mistakes in typing need not wait for it.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from har_prune import __version__
from har_prune.commands import (
    convert,
    evaluate,
    export,
    gate,
    init,
    predict,
    prune,
    push,
    recipes,
    report,
    run,
    score,
    space,
)
from har_prune.errors import HarPruneError
from har_prune.runtime.console import console, error, quiet_libraries

_RESUMED = ("run", "prune")  # commands that continue when they are started again


class _Terminated(KeyboardInterrupt):
    """SIGTERM: unlike its default it lets what is half-written be cleaned up."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (HarPruneError, OSError) as problem:
            error(str(problem))
            raise typer.Exit(2) from problem
        except ValueError as problem:
            if type(problem).__name__ != "ValidationError":  # pydantic's, of settings made of options
                raise
            error("\n".join(_option(each) for each in problem.errors()))  # type: ignore[attr-defined]
            raise typer.Exit(2) from problem
        except KeyboardInterrupt as stop:
            again = " Start the same command again: it continues." if ctx.invoked_subcommand in _RESUMED else ""
            error(f"stopped.{again}")
            raise typer.Exit(128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)) from stop


def _option(problem: dict[str, Any]) -> str:
    name = ".".join(map(str, problem["loc"])).replace("_", "-")
    return f"--{name}: {problem['msg'].removeprefix('Value error, ')} (got {problem['input']!r})"


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Makes networks shallower and narrower: finds what matters least, removes it, heals, saves.",
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say it.")) -> None:
    """Says at once that something happens: libraries take a few seconds to load."""
    quiet_libraries()
    console.print(f"har_prune {__version__}", style="dim", highlight=False)
    console.quiet = int(os.environ.get("RANK", "0")) > 0  # of several processes the main one speaks


_COMMANDS: dict[str, Callable[..., None]] = {
    "run": run.run,
    "prune": prune.prune,
    "init": init.init,
    "score": score.score,
    "evaluate": evaluate.evaluate,
    "report": report.report,
    "gate": gate.gate,
    "export": export.export,
    "predict": predict.predict,
    "space": space.space,
    "push": push.push,
    "convert": convert.convert,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(recipes.app, name="recipes")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console command.

    Args:
        arguments: What follows the command's name; None = those of this process.
    """

    def terminate(number: int, frame: Any) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, terminate)
    sys.exit(app(arguments))


if __name__ == "__main__":
    main()
