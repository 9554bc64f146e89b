"""The publisher's files: a folder, or the .zip they come in."""

import lzma
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from data_prep.errors import PrepError


@contextmanager
def opened(raw: Path, scratch: Path) -> Iterator[Path]:
    """A folder with the files: `raw` itself, or what the archive holds, unpacked for as long as it is needed.

    Archives inside the archive are unpacked as well, beside themselves: UCI publishes some sets that way.

    Args:
        raw: A folder or a .zip.
        scratch: Where there is room to unpack; the unpacked files vanish in the end.

    Raises:
        PrepError: There is nothing there, the archive is damaged or larger than the disk, or a file in it points
            outside of it.
    """
    if raw.is_dir():
        yield raw
        return
    if not raw.exists():
        raise PrepError(f"{raw} does not exist: give the publisher's folder, or the .zip it comes in.")
    if not zipfile.is_zipfile(raw):
        raise PrepError(f"{raw} is neither a folder nor a whole .zip: unpack it, or download it again.")
    scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch, prefix=".unpacked-") as folder:
        _unpack(raw, Path(folder))
        for inner in sorted(Path(folder).rglob("*.zip")):
            _unpack(inner, inner.parent)
            inner.unlink()
        yield Path(folder)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as files:
            for entry in files.infolist():
                place = PurePosixPath(entry.filename.replace("\\", "/"))
                if place.is_absolute() or ".." in place.parts or ":" in "".join(place.parts[:1]):
                    raise PrepError(f"{archive}: {entry.filename!r} points outside of the archive; nothing was read.")
            # What it says is what it can be: zipfile reads no more of an entry than the size the archive states.
            size, free = sum(entry.file_size for entry in files.infolist()), shutil.disk_usage(folder).free
            if size > free:
                raise PrepError(
                    f"{archive} unpacks to {size / 2**30:,.2f} GiB, and {free / 2**30:,.2f} GiB are free beside OUT: "
                    "make room, or choose an OUT on another disk."
                )
            files.extractall(folder)
    except OSError as error:
        if error.errno is not None:  # of the disk; the archive's own have no number
            raise
        raise _damaged(archive, error) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(archive, error) from error


def _damaged(archive: Path, error: Exception) -> PrepError:
    return PrepError(f"{archive} is damaged ({error}): download it again.")


def find(raw: Path, *patterns: str) -> list[Path]:
    """Files below a folder that match one of the patterns, wherever a download put them; in order of their names.

    What is hidden is left out: editors, notebooks and macOS keep copies there.
    """
    found = {path for pattern in patterns for path in raw.rglob(pattern)}
    inside = {path: path.relative_to(raw).parts for path in found}
    return sorted(path for path in found if not any(part.startswith((".", "__MACOSX")) for part in inside[path]))
