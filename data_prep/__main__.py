"""`python -m data_prep NAME RAW OUT`: raw files -> windows -> a folder that `load_dataset` reads."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from data_prep import synthetic as synthetic_data
from data_prep import wharf as wharf_data
from data_prep.hub_folder import write
from data_prep.recordings import PrepError, Recording, Windowing

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Turns public sensor data sets into folders for load_dataset."
)
console = Console(stderr=True)

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="Folder with the publisher's files.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")]
WindowS = Annotated[float, typer.Option(help="Length of a window in seconds.")]
Overlap = Annotated[float, typer.Option(help="Share of a window that the next one repeats.")]
Drop = Annotated[list[str] | None, typer.Option(help="Activity to leave out; may be given several times.")]


@app.command()
def wharf(raw: Raw, out: Out, window_s: WindowS = 5.0, overlap: Overlap = 0.5, drop: Drop = None) -> None:
    """WHARF: wrist accelerometer, 32 Hz, 14 activities, 17 volunteers."""
    windowing = Windowing(wharf_data.SOURCE, window_s, overlap, tuple(drop or ()))
    _prepare(wharf_data.read(raw), windowing, out)


@app.command()
def synthetic(
    out: Out,
    window_s: WindowS = synthetic_data.WINDOW_S,
    overlap: Overlap = synthetic_data.OVERLAP,
    subjects: Annotated[int, typer.Option(min=1, help="Virtual subjects.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
) -> None:
    """Synthetic six-activity data: nothing to download, and not real."""
    windowing = Windowing(synthetic_data.SOURCE, window_s, overlap)
    _prepare(synthetic_data.recordings(subjects=subjects, seed=seed), windowing, out)


def _prepare(recordings: Iterable[Recording], windowing: Windowing, out: Path) -> None:
    table = write(track(recordings, "recordings", console=console, transient=True), windowing, out)
    console.print(
        f"{len(table):,} windows of {len(set(table['subject']))} subjects and {len(windowing.activities)} activities "
        f"in {out}; recordings shorter than a window, left out: {sum(windowing.too_short.values())}."
    )


def main() -> None:
    """Runs the command; bad input is one message and exit code 2."""
    try:
        app()
    except (PrepError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
