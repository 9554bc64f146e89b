"""`python -m data_prep NAME RAW OUT`: raw files -> windows -> a folder that `load_dataset` reads."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.progress import Progress

from data_prep.column_map import load_map
from data_prep.errors import PrepError
from data_prep.hub_folder import REPAIRED, alike, new_folder, write
from data_prep.inspection import inspect
from data_prep.raw_files import opened
from data_prep.readers import csv_files
from data_prep.readers import synthetic as synthetic_data
from data_prep.readers.catalogue import READERS
from data_prep.recordings import DatasetInfo, Reader, Windowing
from data_prep.window_tables import Written

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Turns public sensor data sets into folders for load_dataset."
)
console = Console(stderr=True, markup=False, highlight=False)
_STOPS = (signal.SIGINT, signal.SIGTERM)
_FILLED = 0.2  # of a channel: above it is said how much of it is made up

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="Folder with the publisher's files, or their .zip.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="New folder to write.")]
WindowS = Annotated[float | None, typer.Option(help="Length of a window in seconds. [as published or usual]")]
Overlap = Annotated[float | None, typer.Option(help="Share of a window that the next one repeats. [as usual]")]
Drop = Annotated[list[str] | None, typer.Option(help="Activity to leave out; may be given several times.")]
Rate = Annotated[float | None, typer.Option(help="Resample to this rate. [that of the data set]")]
MaxGapS = Annotated[float, typer.Option(help="Longest gap in a sensor's data that is filled, in seconds.")]
NumProc = Annotated[int, typer.Option(min=1, help="Processes that read.")]
StillMin = Annotated[
    float | None,
    typer.Option(
        help="Minutes without motion after which the column `worn` is false; nothing is left out. [no column]"
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT, once the new one is whole.")]
Config = Annotated[str | None, typer.Option(help="Configuration, of a data set that has several.")]


def _command(name: str, reader: Reader) -> Callable[..., None]:
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
        info = _configuration(name, reader, config)
        windowing = Windowing(info, window_s, overlap, tuple(drop or ()), sampling_rate_hz, max_gap_s)
        _prepare(raw, out, lambda files: (reader, windowing), num_proc, overwrite)

    return prepare


def _prepare(
    raw: Path, out: Path, described: Callable[[Path], tuple[Reader, Windowing]], num_proc: int, overwrite: bool
) -> None:
    _refuse_to_replace(raw, out)
    with new_folder(out, overwrite=overwrite) as folder, opened(raw, folder) as files:
        reader, windowing = described(files)
        parts = reader.parts(files, windowing.info)
        said = _write(reader, parts, windowing, folder, min(num_proc, os.cpu_count() or 1, len(parts)))
    _say(out, said)


def _refuse_to_replace(given: Path, out: Path) -> None:
    """OUT is replaced as a whole, with all that lies in it."""
    if out.resolve() in (given.resolve(), *given.resolve().parents):
        raise PrepError(f"{given} lies in {out}, which would be replaced: choose another OUT.")


def _configuration(name: str, reader: Reader, config: str | None) -> DatasetInfo:
    known = {info.name: info for info in reader.infos}
    if config is None and len(known) == 1:
        return reader.infos[0]
    if config not in known:
        raise PrepError(f"{name} needs --config, one of {', '.join(known)}{f' (got {config!r})' if config else ''}.")
    return known[config]


def _write(reader: Reader, parts: list[Any], windowing: Windowing, folder: Path, num_proc: int) -> Written:
    with Progress(console=console, transient=True) as progress:  # ends also where a file is refused
        return write(reader, progress.track(parts, description="files"), windowing, folder, num_proc)


def _say(out: Path, written: Written) -> None:
    splits = ", ".join(f"{count:,} {split}" for split, count in written.windows.items())
    console.print(
        f"{splits} windows of {len(written.subjects)} subjects and {len(written.activities)} activities in {out}; "
        f"recordings shorter than a window, left out: {written.too_short.total()}; cuts at gaps: {written.gaps}."
    )
    # All of them: one that is written in two ways is two, and shows by its number of windows.
    console.print("windows by activity: " + ", ".join(f"{name} {n:,}" for name, n in written.activities.most_common()))
    for words in (written.subjects, written.activities):
        for one, other in alike(words):
            console.print(
                f"warning: {one!r} and {other!r} are almost the same: one, written in two ways?", style="yellow"
            )
    for doubt in written.doubts:
        console.print(f"warning: {doubt}", style="yellow")
    for channel, share in written.filled_share.items():
        if share > _FILLED:
            console.print(
                f"warning: {share:.0%} of {channel} was not measured but filled on straight lines: do its rows lie "
                "beside those of another sensor? --max-gap-s says how long a gap may be that is filled.",
                style="yellow",
            )
    if +written.repaired:
        console.print(f"{REPAIRED}: " + ", ".join(f"{n:,} {what}" for what, n in (+written.repaired).items()) + ".")
    if written.not_worn:
        console.print(f"not worn: {written.not_worn:,} windows (column worn); none was left out.")
    if written.other_rate:
        console.print(
            f"{written.other_rate.total()} recordings of {', '.join(sorted(written.other_rate))} were left out: their "
            "time stamps say another sampling rate. The card counts them."
        )


for _name, _reader in READERS.items():
    _titles = "; ".join(info.title for info in _reader.infos)
    app.command(_name, help=f"{_titles}. {_reader.infos[0].sampling_rate_hz:g} Hz.")(_command(_name, _reader))


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
    reader = synthetic_data.reader(subjects, seed)
    windowing = Windowing(synthetic_data.INFO, window_s, overlap)
    with new_folder(out, overwrite=overwrite) as folder:
        said = _write(reader, reader.parts(out, windowing.info), windowing, folder, 1)
    _say(out, said)


@app.command("csv")
def own_recordings(
    raw: Raw,
    out: Out,
    columns: Annotated[
        Path, typer.Option(help="YAML file that says what the columns are; its keys: data_prep/column_map.py.")
    ],
    window_s: WindowS = None,
    overlap: Overlap = None,
    drop: Drop = None,
    sampling_rate_hz: Rate = None,
    max_gap_s: MaxGapS = 0.25,
    still_min: StillMin = None,
    num_proc: NumProc = 1,
    overwrite: Overwrite = False,
) -> None:
    """Your own recordings: CSV or Parquet files, and a map of their columns."""
    _refuse_to_replace(columns, out)
    column_map = load_map(columns)
    if still_min is not None:
        column_map = column_map.looking_for_rest(still_min)

    def described(files: Path) -> tuple[Reader, Windowing]:
        reader = csv_files.reader(files, column_map)
        info = reader.infos[0]
        return reader, Windowing(
            info, window_s, overlap, tuple(drop or ()), sampling_rate_hz, max_gap_s, column_map.still_min is not None
        )

    _prepare(raw, out, described, num_proc, overwrite)


@app.command("inspect")
def look(
    file: Annotated[Path, typer.Argument(help="A .csv, .csv.gz, .parquet, .cwa, .gt3x or GENEActiv .bin file.")],
    output: Annotated[Path | None, typer.Option(help="New file for the column map. [it is printed]")] = None,
) -> None:
    """Says what a file holds, warns of what looks wrong, and guesses the column map."""
    if output is not None and output.exists():
        raise PrepError(f"{output} is there already: choose another --output.")
    found = inspect(file)
    for what, said in found.facts.items():
        console.print(f"{what}: {said}", soft_wrap=True)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    if output is None:
        Console(highlight=False, markup=False, soft_wrap=True).print(found.column_map.rstrip())
    else:
        output.write_text(found.column_map, encoding="utf-8")
        console.print(f"Column map: {output}. Check it, then: python -m data_prep csv FOLDER OUT --columns {output}",
                      soft_wrap=True)  # fmt: skip


@app.command("list")
def show() -> None:
    """Says of each data set what it is, where to get it, and what the folder must hold."""
    out = Console(highlight=False)
    for name, reader in READERS.items():
        for info in reader.infos:
            called = name if len(reader.infos) == 1 else f"{name} --config {info.name}"
            out.print(called, style="bold")
            for what, said in {
                "": info.title,
                "sensors": ", ".join(info.channels),
                "rate": f"{info.sampling_rate_hz:g} Hz; usual window {info.window_s:g} s",
                "people": info.subjects,
                "activities": f"{len(info.activities)}: {', '.join(info.activities)}",
                "terms": info.license,
                "from": info.url,
                "RAW holds": info.layout,
            }.items():
                out.print(Padding(f"{what + ': ' if what else ''}{said}", (0, 0, 0, 4)))


def main() -> None:
    """Runs the command; bad input is one message and exit code 2, being stopped another one and 130 or 143."""
    try:
        app()
    except SystemExit as stop:
        if stop.code in [128 + number for number in _STOPS]:
            console.print("stopped; nothing was written", style="red")
        raise
    except (PrepError, OSError) as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    # Not KeyboardInterrupt: typer answers it with a word and exit code 1. SystemExit cleans up on its way.
    for _number in _STOPS:
        signal.signal(_number, lambda number, _: sys.exit(128 + number))
    main()
