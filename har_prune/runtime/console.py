"""The console messages go to, and the noise of libraries that does not."""

import datasets
import transformers
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from rich.console import Console

console = Console(stderr=True)


def quiet_libraries() -> None:
    """Leaves the terminal to our own bars and messages."""
    hidden = are_progress_bars_disabled()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # the line above hides ours as well
        enable_progress_bars()
