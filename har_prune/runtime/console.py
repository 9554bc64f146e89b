"""The console messages go to, and the noise of libraries that does not."""

import os
import sys
import warnings

from rich.console import Console

console = Console(stderr=True)


def say(text: str, style: str | None = None) -> None:
    """Prints a line as it is: names of files and classes may look like markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def error(text: str) -> None:
    """Prints what went wrong; also in processes that are silent otherwise."""
    quiet, console.quiet = console.quiet, False
    say(f"error: {text}", style="red")
    console.quiet = quiet


def quiet_libraries() -> None:
    """Leaves the terminal to our own bars and messages."""
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    hidden = are_progress_bars_disabled()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # the line above hides ours as well
        enable_progress_bars()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if "datasets" in sys.modules:  # it has read its environment already
        sys.modules["datasets"].disable_progress_bars()
    warnings.showwarning = _say_warning  # type: ignore[assignment]
    warnings.filterwarnings("default", r".*\(since 0\.2\)", DeprecationWarning)  # of words in somebody's recipe


def _say_warning(message: Warning | str, *place: object) -> None:
    """One line; where in the code it was given says nothing to a user of the console."""
    say(f"warning: {message}", style="yellow")
