"""What data need in memory: said before they are read, and refused where it is not there."""

from pathlib import Path

from har_prune.errors import DataError
from har_prune.runtime.console import console

_MEMINFO = Path("/proc/meminfo")  # of Linux; elsewhere nothing is compared
_GIB = 2**30
_BESIDE = 1.25  # the peak as a multiple of the array; 180,000 windows [128, 6] were loaded and normalised in 1.14


def expect_memory(array_bytes: int, what: str) -> None:
    """Says what an array of data will need, where that is a GiB or more, and refuses what does not fit.

    Args:
        array_bytes: Size of the array.
        what: What is in it, for messages.

    Raises:
        DataError: More is needed than is available.
    """
    needed, available = _BESIDE * array_bytes, _available_bytes()
    if available is not None and needed > available:
        raise DataError(
            f"{what} need about {needed / _GIB:.1f} GiB of memory and {available / _GIB:.1f} GiB are available: end "
            "other programs, use a machine with more memory, or fewer or shorter examples."
        )
    if needed >= _GIB:
        console.print(f"Reading {what}: about {needed / _GIB:.1f} GiB of memory", markup=False)


def _available_bytes() -> int | None:
    """What programs can still get without swapping; None where the system does not say."""
    if not _MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
