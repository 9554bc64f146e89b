"""Images of a data set: all of them in one array where that fits, else read when they are needed."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image

from har_prune.data.memory import expect_memory
from har_prune.errors import DataError

_LARGEST = 4 * 2**30  # bytes of an array of all images
_DEEP = ("I", "F")  # first letters of pillow's modes with more than 8 bits a channel
_HASHED = 256  # images whose bytes tell data sets apart
_LOOKED_AT = 256  # images whose sizes decide whether an array is tried


class ImageColumn:
    """Images of any sizes, decoded when they are asked for.

    Args:
        table: The data set.
        column: Its column of images.
    """

    def __init__(self, table: Dataset, column: str):
        self.table, self.column = table, column

    def __len__(self) -> int:
        return len(self.table)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over their number and the encoded bytes of some that lie evenly spread."""
        digest = hashlib.sha256(str(len(self)).encode())
        encoded = self.table.select_columns(self.column).cast_column(self.column, Image(decode=False))
        for row in np.linspace(0, len(self) - 1, min(_HASHED, len(self))).astype(int).tolist():
            image = encoded[row][self.column]
            digest.update(Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"])
        return digest.hexdigest()

    def __getitem__(self, rows: Any) -> list[np.ndarray]:
        """Images [H, W, 3] of uint8 at some rows.

        Raises:
            DataError: One has more than 8 bits a channel.
        """
        wanted = np.atleast_1d(np.arange(len(self))[rows])
        images = self.table[wanted.tolist()][self.column]
        for row, image in zip(wanted.tolist(), images, strict=True):
            if image.mode[:1] in _DEEP:
                raise DataError(
                    f"image {row} of column {self.column!r} has more than 8 bits a channel (mode {image.mode}), which "
                    "would be cut off at 255: scale the images to 8 bits."
                )
        return [np.asarray(image.convert("RGB")) for image in images]


def read_images(table: Dataset, column: str) -> np.ndarray | ImageColumn:
    """All images as [N, 3, H, W] of uint8; a column to read from where sizes differ or memory would not do."""
    images = ImageColumn(table, column)
    first = images[: min(_LOOKED_AT, len(images))]
    if len({image.shape for image in first}) > 1 or first[0].nbytes * len(images) > _LARGEST:
        return images
    expect_memory(first[0].nbytes * len(images), f"{len(images):,} images")
    height, width, channels = first[0].shape
    found = np.empty((len(images), channels, height, width), dtype=np.uint8)
    for start in range(0, len(images), _LOOKED_AT):
        part = images[start : start + _LOOKED_AT]
        if any(image.shape != first[0].shape for image in part):
            return images
        found[start : start + len(part)] = np.stack(part).transpose(0, 3, 1, 2)
    return found
