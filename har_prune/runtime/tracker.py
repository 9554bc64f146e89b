"""A tracker for `Accelerator.log` that needs no service: one JSON object a line."""

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process

from har_prune.runtime.files import whole_file


class JsonLinesTracker(GeneralTracker):
    """Appends what is logged to a file, e.g. {"step": 40, "train/loss": 0.31}.

    Args:
        path: The file; its folder must exist.
    """

    name = "jsonl"
    requires_logging_directory = False

    # Not @on_main_process: asking for the rank before there is an Accelerator fixes the number of processes at one.
    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self._begun: set[str] = set()

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        """The recipe is beside the file already."""

    @on_main_process
    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        self._forget({key.partition("/")[0] for key in values})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def _forget(self, names: set[str]) -> None:
        """Drops lines of a training that was killed and is now done again; removals are logged once they are kept."""
        again = tuple(f"{name}/" for name in names - self._begun - {"prune"})
        self._begun |= names
        if not again or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not any(f'"{prefix}' in line for prefix in again)]
        if len(kept) < len(lines):
            with whole_file(self.path) as partial:
                partial.write_text("".join(kept), encoding="utf-8")
