"""`python -m data_prep NAME RAW OUT`: raw files -> windows -> a folder that `load_dataset` reads."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress

from data_prep.errors import PrepError
from data_prep.hub_folder import Written, new_folder, write
from data_prep.raw_files import opened
from data_prep.readers import csv_files
from data_prep.readers import synthetic as synthetic_data
from data_prep.readers.catalogue import DATA_SETS
from data_prep.recordings import DataSet, Source, Windowing

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Turns public sensor data sets into folders for load_dataset."
)
console = Console(stderr=True)

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="Folder with the publisher's files, or their .zip.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")]
WindowS = Annotated[float | None, typer.Option(help="Length of a window in seconds. [as published or usual]")]
Overlap = Annotated[float | None, typer.Option(help="Share of a window that the next one repeats. [as usual]")]
Drop = Annotated[list[str] | None, typer.Option(help="Activity to leave out; may be given several times.")]
Rate = Annotated[float | None, typer.Option(help="Resample to this rate. [that of the data set]")]
MaxGapS = Annotated[float, typer.Option(help="Longest gap in a sensor's data that is filled, in seconds.")]
NumProc = Annotated[int, typer.Option(min=1, help="Processes that read.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT, once the new one is whole.")]
Config = Annotated[str | None, typer.Option(help="Configuration, of a data set that has several.")]


def _command(name: str, data_set: DataSet) -> Callable[..., None]:
    def prepare(
        raw: Raw,
        out: Out,
        window_s: WindowS = None,
        overlap: Overlap = None,
        drop: Drop = None,
        sampling_rate_hz: Rate = None,
        max_gap_s: MaxGapS = 0.25,
        num_proc: NumProc = 1,
        overwrite: Overwrite = False,
        config: Config = None,
    ) -> None:
        source = _configuration(name, data_set, config)
        windowing = Windowing(source, window_s, overlap, tuple(drop or ()), sampling_rate_hz, max_gap_s)
        _prepare(raw, out, lambda files: (data_set, windowing), num_proc, overwrite)

    return prepare


def _prepare(
    raw: Path, out: Path, described: Callable[[Path], tuple[DataSet, Windowing]], num_proc: int, overwrite: bool
) -> None:
    _refuse_to_replace(raw, out)
    with new_folder(out, overwrite=overwrite) as folder, opened(raw, out.parent) as files:
        data_set, windowing = described(files)
        parts = data_set.parts(files, windowing.source)
        said = _write(data_set, parts, windowing, folder, min(num_proc, os.cpu_count() or 1, len(parts)))
    _say(out, said)


def _refuse_to_replace(given: Path, out: Path) -> None:
    """OUT is replaced as a whole, with all that lies in it."""
    if out.resolve() in (given.resolve(), *given.resolve().parents):
        raise PrepError(f"{given} lies in {out}, which would be replaced: choose another OUT.")


def _configuration(name: str, data_set: DataSet, config: str | None) -> Source:
    known = {source.name: source for source in data_set.sources}
    if config is None and len(known) == 1:
        return data_set.sources[0]
    if config not in known:
        raise PrepError(f"{name} needs --config, one of {', '.join(known)}{f' (got {config!r})' if config else ''}.")
    return known[config]


def _write(data_set: DataSet, parts: list[Any], windowing: Windowing, folder: Path, num_proc: int) -> Written:
    with Progress(console=console, transient=True) as progress:  # ends also where a file is refused
        return write(data_set, progress.track(parts, description="files"), windowing, folder, num_proc)


def _say(out: Path, written: Written) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in written.windows.items())
    console.print(
        f"{splits} windows of {len(written.subjects)} subjects and {len(written.activities)} activities in {out}; "
        f"recordings shorter than a window, left out: {written.too_short.total()}; cuts at gaps: {written.gaps}."
    )


for _name, _data_set in DATA_SETS.items():
    _titles = "; ".join(source.title for source in _data_set.sources)
    app.command(_name, help=f"{_titles}. {_data_set.sources[0].sampling_rate_hz:g} Hz.")(_command(_name, _data_set))


@app.command()
def synthetic(
    out: Out,
    window_s: WindowS = None,
    overlap: Overlap = None,
    subjects: Annotated[int, typer.Option(min=1, help="Virtual subjects.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Synthetic six-activity data: nothing to download, and not real."""
    data_set = synthetic_data.data_set(subjects, seed)
    windowing = Windowing(synthetic_data.SOURCE, window_s, overlap)
    with new_folder(out, overwrite=overwrite) as folder:
        said = _write(data_set, data_set.parts(out, windowing.source), windowing, folder, 1)
    _say(out, said)


@app.command("csv")
def own_recordings(
    raw: Raw,
    out: Out,
    columns: Annotated[
        Path, typer.Option(help="YAML file that says what the columns are; its keys: data_prep/readers/csv_files.py.")
    ],
    window_s: WindowS = None,
    overlap: Overlap = None,
    drop: Drop = None,
    sampling_rate_hz: Rate = None,
    max_gap_s: MaxGapS = 0.25,
    num_proc: NumProc = 1,
    overwrite: Overwrite = False,
) -> None:
    """Your own recordings: CSV files, and a map of their columns."""
    _refuse_to_replace(columns, out)
    column_map = csv_files.load_map(columns)

    def described(files: Path) -> tuple[DataSet, Windowing]:
        data_set = csv_files.data_set(files, column_map)
        source = data_set.sources[0]
        return data_set, Windowing(source, window_s, overlap, tuple(drop or ()), sampling_rate_hz, max_gap_s)

    _prepare(raw, out, described, num_proc, overwrite)


@app.command("list")
def show() -> None:
    """Says of each data set what it is, where to get it, and what the folder must hold."""
    out = Console(highlight=False)
    for name, data_set in DATA_SETS.items():
        for source in data_set.sources:
            called = name if len(data_set.sources) == 1 else f"{name} --config {source.name}"
            out.print(called, style="bold")
            for what, said in {
                "": source.title,
                "sensors": ", ".join(source.channels),
                "rate": f"{source.sampling_rate_hz:g} Hz; usual window {source.window_s:g} s",
                "people": source.subjects,
                "activities": f"{len(source.activities)}: {', '.join(source.activities)}",
                "terms": source.licence,
                "from": source.url,
                "RAW holds": source.layout,
            }.items():
                out.print(Padding(f"{what + ': ' if what else ''}{said}", (0, 0, 0, 4)))


def main() -> None:
    """Runs the command; bad input is one message and exit code 2."""
    try:
        app()
    except (PrepError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
