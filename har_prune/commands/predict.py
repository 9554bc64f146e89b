"""`har-prune predict`: the timeline of a recording."""

from pathlib import Path
from typing import Annotated

import typer

from har_prune.commands.options import Trust


def predict(
    network: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier of sensor windows, .onnx or .pte.")],
    recording: Annotated[
        Path, typer.Argument(help=".csv, .parquet, .npy or a device's file; columns named as its channels.")
    ],
    sampling_rate_hz: Annotated[
        float | None, typer.Option(help="Of the recording. [by its column time, else the network's]")
    ] = None,
    unit: Annotated[
        list[str] | None, typer.Option(help="Of each channel, in the network's order; repeatable. [its own]")
    ] = None,
    hop_s: Annotated[float | None, typer.Option(help="Seconds between two windows. [half a window]")] = None,
    mean_duration_s: Annotated[
        float | None,
        typer.Option(min=0.001, help="How long activities usually last: smooths by a hidden Markov model. [not]"),
    ] = None,
    shortest_s: Annotated[
        float | None, typer.Option(min=0, help="Shorter activities go to the likelier neighbour. [none do]")
    ] = None,
    least_probability: Annotated[
        float | None, typer.Option(min=0, max=1, help="Below it no activity is named. [always one is]")
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="The device was on the other wrist.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture of the timeline to write, .png or .svg.")] = None,
    trust_remote_code: Trust = False,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("timeline.csv"),
) -> None:
    """Says what a recording shows: start, end, activity, probability. Gaps are told, never guessed over."""
    from rich.table import Table

    from har_prune.errors import DataError
    from har_prune.inference.pipeline import HarPipeline
    from har_prune.inference.smoothing import Activities, Smoothing
    from har_prune.reporting.names import in_terminal
    from har_prune.runtime.console import Console, say
    from har_prune.runtime.files import whole_file

    if plot is not None and plot.suffix.lower() not in (".png", ".svg"):
        raise DataError(f"--plot {plot}: a picture is a .png or .svg file.")
    taken = {recording.resolve(): "the recording"}
    for option, path in (("--output", output), ("--plot", plot)):
        if path is not None and not path.parent.is_dir():
            raise DataError(f"{option} {path}: there is no folder {path.parent}. Make it first.")
        if path is not None and (other := taken.setdefault(path.resolve(), option)) != option:
            raise DataError(f"{option} {path} is {other}: it would be replaced. Choose another file.")
    pipeline = HarPipeline.from_pretrained(network, trust_remote_code=trust_remote_code)
    activities = None if mean_duration_s is None else Activities.usual(len(pipeline.labels), mean_duration_s)
    smoothing = Smoothing(activities, shortest_s, least_probability)
    timeline = pipeline(recording, sampling_rate_hz, units=unit, hop_s=hop_s, smoothing=smoothing, mirror=mirror)
    with whole_file(output) as partial:
        timeline.to_frame().to_csv(partial, index=False)
    table = Table(title=f"{len(timeline.starts_s)} windows")
    for name in ("start, s", "end, s", "activity", "probability"):
        table.add_column(name, justify="left" if name == "activity" else "right")
    for segment in timeline.segments:
        chance = "-" if segment.probability is None else f"{segment.probability:.2f}"
        nothing = "(no data)" if segment.probability is None else "(unsure)"
        table.add_row(f"{segment.start_s:.1f}", f"{segment.end_s:.1f}", in_terminal(segment.label or nothing), chance)
    Console().print(table)
    say(f"Timeline: {output}")
    if plot is not None:
        from har_prune.inference.picture import draw_timelines

        draw_timelines({f"{recording.name}, by {pipeline.name}": timeline.segments}, plot)
        say(f"Picture: {plot}")
