"""A tracker for `Accelerator.log` that needs no service: one JSON object a line."""

import json
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, on_main_process


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

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def store_init_configuration(self, values: dict) -> None:
        """The recipe is beside the file already."""

    @on_main_process
    def log(self, values: dict, step: int | None = None, **kwargs: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
