"""The console command `har-prune`: `score` ranks the blocks of a checkpoint, `push` uploads a saved one."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console

from har_prune.blocks.find import find_blocks
from har_prune.checkpoints.load import Checkpoint
from har_prune.checkpoints.push import push_pruned
from har_prune.data.batches import make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import load_data
from har_prune.data.protocols import make_splits
from har_prune.errors import HarPruneError, RecipeError
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.original import load_original
from har_prune.recipe.prepare import try_on
from har_prune.reporting.heatmap import plot_scores, scores_json, scores_table
from har_prune.runtime.batches import inputs_of
from har_prune.runtime.console import quiet_libraries
from har_prune.runtime.environment import environment
from har_prune.runtime.files import whole_file, write_json
from har_prune.scoring.config import CalibrationConfig
from har_prune.scoring.score import score_criteria

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Makes networks shallower.")
console = Console(stderr=True)


@app.callback()
def _main() -> None:
    """Makes networks shallower. Whole runs: accelerate launch har_prune/run.py RECIPE."""


@app.command()
def score(
    checkpoint: Annotated[str, typer.Argument(help="Folder or Hub id of a classifier.")],
    data: Annotated[str, typer.Option(help="Folder or Hub id for load_dataset; 'synthetic' for a trial.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the checkpoint.")] = None,
    data_revision: Annotated[str | None, typer.Option(help="The same of the data set.")] = None,
    data_subset: Annotated[str | None, typer.Option(help="Configuration of a data set that has several.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint; read it first.")
    ] = False,
    criterion: Annotated[
        list[str] | None, typer.Option(help="May be given several times; also 'consensus(cka, taylor)'. [cka]")
    ] = None,
    test_subject: Annotated[
        list[str] | None, typer.Option(help="Subjects nobody looks at (sensor data without a test split); repeatable.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Examples, drawn from the calibration part of the data.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    interval: Annotated[float | None, typer.Option(help="Level of a bootstrap interval, e.g. 0.95.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    representation: Annotated[str | None, typer.Option(help="Module to compare at. [the classifier's input]")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[Path, typer.Option(help="Folder for scores.json and scores.png.")] = Path("scores"),
) -> None:
    """Ranks the removable blocks of a checkpoint by one or more criteria, in one pass over the data."""
    try:
        _score(
            Checkpoint(checkpoint, revision, trust_remote_code),
            _data_config(
                name_or_path=data,
                subset=data_subset,
                revision=data_revision,
                test_subjects=tuple(test_subject or ()),
                batch_size=batch_size,
            ),
            criterion or ["cka"],
            _calibration(samples, interval, precision),
            representation,
            seed,
            output,
        )
    except (HarPruneError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(help="A folder save_pruned made, e.g. runs/wharf/pruned.")],
    repo_id: Annotated[str, typer.Argument(help="owner/name; made where it does not exist.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Of a repository that is made. [the account's default]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to. [the default branch]")] = None,
    message: Annotated[str, typer.Option(help="First line of the commit.")] = "Upload with har_prune",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Load a folder that carries somebody else's code.")
    ] = False,
) -> None:
    """Checks that a saved folder loads, and pushes all of it to the Hub in one commit."""
    try:
        pushed = push_pruned(
            directory,
            repo_id,
            private=private,
            revision=revision,
            commit_message=message,
            trust_remote_code=trust_remote_code,
        )
    except (HarPruneError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    console.print(f"Pushed to {pushed.url}, commit {pushed.commit}")


def _score(
    checkpoint: Checkpoint,
    config: DataConfig,
    criteria: list[str],
    calibration: CalibrationConfig,
    representation: str | None,
    seed: int,
    output: Path,
) -> None:
    accelerator = make_accelerator()
    console.quiet = not accelerator.is_main_process
    loaded = load_data(config.name_or_path, config.subset, config.revision)
    rows = make_splits(loaded, config, seed).calibration
    model, processor = load_original(checkpoint, loaded)
    preprocess = preprocess_for(loaded, processor, str(checkpoint), config.max_tokens)
    rows = np.random.default_rng(seed).permutation(rows)[: calibration.samples]
    batches = make_loader(loaded, rows, preprocess, config.batch_size)
    example_inputs = inputs_of(preprocess(loaded.raw(rows[:2])))
    try_on(model, example_inputs)
    scores = score_criteria(
        find_blocks(model, example_inputs),
        batches,
        list(dict.fromkeys(criteria)),
        accelerator=accelerator,
        representation=representation,
        config=calibration.scoring(seed),
    )
    if not accelerator.is_main_process:
        return
    output.mkdir(parents=True, exist_ok=True)
    record = {"checkpoint": str(checkpoint), "data": config.name_or_path, "environment": environment()}
    write_json(output / "scores.json", {**record, "criteria": scores_json(scores)})
    with whole_file(output / "scores.png") as partial:
        plot_scores(scores, partial)
    Console().print(scores_table(scores))
    console.print(f"Scores: {output / 'scores.json'}; heat map: {output / 'scores.png'}")


def _data_config(**fields: Any) -> DataConfig:
    return DataConfig(protocol="holdout" if fields["test_subjects"] else "official", **fields)


def _calibration(samples: int, interval: float | None, precision: str) -> CalibrationConfig:
    try:
        return CalibrationConfig.model_validate({"samples": samples, "interval": interval, "precision": precision})
    except ValidationError as error:
        problems = [
            f"--{problem['loc'][0]}: {problem['msg']} (got {problem['input']!r})" for problem in error.errors()
        ]
        raise RecipeError("\n".join(problems)) from error


def main() -> None:
    """Entry point of the console command."""
    quiet_libraries()
    app()


if __name__ == "__main__":
    main()
