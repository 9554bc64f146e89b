"""Progress bars: on the main process of each machine, off with HF_HUB_DISABLE_PROGRESS_BARS=1."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from accelerate import Accelerator
from huggingface_hub.utils import tqdm

Item = TypeVar("Item")


def count_of(items: Any) -> int | None:
    """How many there are; None where nobody knows: a DataLoader over a stream has a length and cannot say it."""
    try:
        return len(items)
    except TypeError:
        return None


class Progress:
    """One bar that vanishes when it is done.

    Args:
        title: What is going on.
        total: Number of steps; None when unknown.
        accelerator: Other processes than the local main one show nothing.
    """

    def __init__(self, title: str, total: int | None, accelerator: Accelerator | None = None):
        hidden = accelerator is not None and not accelerator.is_local_main_process
        # None lets huggingface_hub's switch (environment variable or disable_progress_bars()) decide.
        self._bar = tqdm(desc=title, total=total, leave=False, dynamic_ncols=True, disable=True if hidden else None)

    def counting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, the bar advanced behind each."""
        for item in items:
            yield item
            self.advance()

    def advance(self, steps: int = 1) -> None:
        """So many steps more."""
        self._bar.update(steps)

    def note(self, text: str) -> None:
        """A few words behind the bar."""
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()
