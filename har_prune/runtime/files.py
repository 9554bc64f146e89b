"""Files and folders that appear whole or not at all: written beside their place, synced, renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from har_prune.errors import OutputFolderError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial-"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a folder to write into; it becomes `path` when the block ends, and vanishes when it raises.

    Its files get the mode that the umask gives: safetensors writes 0600.

    Raises:
        FileExistsError: `path` exists and is not an empty folder.
        OutputFolderError: It is the working directory; or safetensors could not write weights, as a full disk is no
            OSError to it.
    """
    if path.resolve() == Path.cwd():
        raise OutputFolderError(f"{path} is the folder you are in, and a new one takes its place: name another.")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} exists and is not empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{_PARTIAL}{path.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for folder, _, names in os.walk(partial):
            for name in names:
                os.chmod(Path(folder) / name, 0o666 & partial.stat().st_mode)
                _sync(Path(folder) / name)
            _sync(Path(folder))
        os.rename(partial, path)
        _sync(path.parent)
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputFolderError(
            f"the weights could not be written to {path} ({error}), and nothing was left there: is the disk full? "
            "Make room, and start again."
        ) from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to; the file becomes `path` when the block ends. A reader sees the old one or the new."""
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")  # keeps the suffix: some writers look at it
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


_LOCKS: dict[Path, IO[str]] = {}  # open for as long as this process lives


def lock_folder(folder: Path) -> bool:
    """Claims a folder for this process until it ends; False where another one has it.

    Where there are no POSIX locks, or the file system has none, everybody gets it.
    """
    place = folder.resolve()
    if fcntl is None or place in _LOCKS:
        return True
    file = (place / ".lock").open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:  # a file system without locks
        file.close()
        return True
    _LOCKS[place] = file
    return True


def remove_partial(folder: Path) -> None:
    """Removes what a killed run left half-written in a folder."""
    for leftover in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
