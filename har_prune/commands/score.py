"""`har-prune score`: ranks the blocks of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from har_prune.commands.options import (
    Data,
    DataRevision,
    DataSettings,
    DataSubset,
    NumThreads,
    Rename,
    Revision,
    TestSubject,
    Trust,
    data_config,
)
from har_prune.commands.run import Plugins


def score(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier.")],
    data: Data,
    settings: DataSettings = None,
    revision: Revision = None,
    data_revision: DataRevision = None,
    data_subset: DataSubset = None,
    trust_remote_code: Trust = False,
    criterion: Annotated[
        list[str] | None, typer.Option(help="May be given several times; also 'consensus(cka, taylor)'. [cka]")
    ] = None,
    test_subject: TestSubject = None,
    rename_channel: Rename = None,
    samples: Annotated[int, typer.Option(min=2, help="Examples, drawn from the calibration part of the data.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    interval: Annotated[float | None, typer.Option(help="Level of a bootstrap interval, e.g. 0.95.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    representation: Annotated[str | None, typer.Option(help="Module to compare at. [the classifier's input]")] = None,
    num_threads: NumThreads = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    plugin: Plugins = None,
    output: Annotated[Path, typer.Option(help="Folder for scores.json and scores.png.")] = Path("scores"),
) -> None:
    """Ranks the removable blocks of a checkpoint by one or more criteria, in one pass over the data."""
    from har_prune.checkpoints.load import Checkpoint
    from har_prune.data.batches import make_loader
    from har_prune.errors import OutputFolderError
    from har_prune.recipe.accelerator import make_accelerator
    from har_prune.recipe.load import load_plugins
    from har_prune.recipe.prepare import prepared_for
    from har_prune.reporting.heatmap import costs_table, plot_scores, scores_json, scores_table
    from har_prune.runtime.console import Console, say
    from har_prune.runtime.environment import environment
    from har_prune.runtime.files import whole_file, write_json
    from har_prune.scoring.config import CalibrationConfig
    from har_prune.scoring.score import score_blocks

    if output.exists() and not output.is_dir():
        raise OutputFolderError(f"{output} is a file: --output names a folder.")
    load_plugins(plugin or ())
    calibration = CalibrationConfig.model_validate({"samples": samples, "interval": interval, "precision": precision})
    accelerator = make_accelerator(num_threads=num_threads)
    made = prepared_for(
        Checkpoint(checkpoint, revision, trust_remote_code),
        data_config(data, data_subset, data_revision, test_subject, rename_channel, settings, batch_size),
        seed,
    )
    batches = make_loader(made.data, made.calibration_rows(samples, seed), made.preprocess, batch_size)
    scores = score_blocks(
        made.stack,
        batches,
        criterion=criterion or ["cka"],
        accelerator=accelerator,
        representation=representation,
        config=calibration.scoring(seed),
    )
    if not accelerator.is_main_process:
        return
    output.mkdir(parents=True, exist_ok=True)
    record = {"checkpoint": checkpoint, "data": data, "environment": environment()}
    write_json(output / "scores.json", {**record, "criteria": scores_json(scores)})
    with whole_file(output / "scores.png") as partial:
        plot_scores(scores, partial)
    Console().print(scores_table(scores), costs_table(scores))
    say(f"Scores: {output / 'scores.json'}; heat map: {output / 'scores.png'}")
