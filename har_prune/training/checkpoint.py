"""A training that was interrupted: the file it goes on from."""

import time
from pathlib import Path
from typing import Any

import torch

from har_prune.errors import OutputFolderError
from har_prune.runtime.files import whole_file


class TrainingCheckpoint:
    """The state of a training, saved every few minutes.

    Random numbers follow from the seed and the number of the step, so none of their state has to be kept, and what the
    main process knows is all there is to know.

    Args:
        path: The file; None = nothing is kept.
        identity: What must be equal for a training to go on, as plain values.
        minutes: Between two saves.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any], minutes: float):
        self.path, self.identity, self.minutes = path, identity, minutes
        self._saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was saved; None where nothing is.

        Raises:
            OutputFolderError: The file is damaged, or is of another training.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            value = torch.load(self.path, map_location="cpu", weights_only=True)
            known = value.pop("identity")
        except Exception as error:  # torch has no class of its own for a damaged file
            raise OutputFolderError(
                f"{self.path} is damaged ({error}): remove it, and this training starts from its beginning."
            ) from error
        differing = [key for key in self.identity if known.get(key) != self.identity[key]]
        if differing:
            said = "; ".join(f"{key}: {known.get(key)} there, {self.identity[key]} here" for key in differing)
            raise OutputFolderError(
                f"{self.path} is of another training ({said}): go on as it began, or remove that file to start this "
                "training from its beginning."
            )
        return value

    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return self.path is not None and time.monotonic() - self._saved >= 60 * self.minutes

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the file.

        Raises:
            OutputFolderError: torch could not write it; a full disk is no OSError to it.
        """
        if self.path is not None:
            try:
                with whole_file(self.path) as partial:
                    torch.save({"identity": self.identity, **state}, partial)
            except RuntimeError as error:
                raise OutputFolderError(
                    f"the training could not be saved to {self.path} ({error}), and what was there before still is: "
                    "is the disk full? Make room, and start again."
                ) from error
        self._saved = time.monotonic()
