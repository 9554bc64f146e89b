"""The console command `har-prune`. `har-prune score` ranks the blocks of a checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console

from har_prune.atomic import whole_file, write_json
from har_prune.data.batches import inputs_for, make_loader
from har_prune.data.config import DataConfig
from har_prune.data.load import load_data
from har_prune.data.protocols import make_splits
from har_prune.environment import environment
from har_prune.errors import HarPruneError, RecipeError
from har_prune.launch import make_accelerator
from har_prune.parent import load_parent
from har_prune.reporting.heatmap import plot_scores, scores_json, scores_table
from har_prune.run import quiet_libraries
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
            checkpoint,
            _data_config(data, test_subject or [], batch_size),
            criterion or ["cka"],
            _calibration(samples, interval, precision),
            representation,
            seed,
            output,
        )
    except (HarPruneError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def _score(
    checkpoint: str,
    config: DataConfig,
    criteria: list[str],
    calibration: CalibrationConfig,
    representation: str | None,
    seed: int,
    output: Path,
) -> None:
    accelerator = make_accelerator()
    console.quiet = not accelerator.is_main_process
    loaded = load_data(config.name_or_path)
    rows = make_splits(loaded, config, seed).calibration
    model, processor = load_parent(checkpoint, loaded)
    inputs = inputs_for(loaded, processor, checkpoint)
    rows = np.random.default_rng(seed).permutation(rows)[: calibration.samples]
    batches = make_loader(loaded, rows, inputs, config.batch_size)
    scores = score_criteria(
        model,
        batches,
        list(dict.fromkeys(criteria)),
        accelerator=accelerator,
        representation=representation,
        config=calibration.scoring(seed),
    )
    if not accelerator.is_main_process:
        return
    output.mkdir(parents=True, exist_ok=True)
    record = {"checkpoint": checkpoint, "data": config.name_or_path, "environment": environment()}
    write_json(output / "scores.json", {**record, "criteria": scores_json(scores)})
    with whole_file(output / "scores.png") as partial:
        plot_scores(scores, partial)
    Console().print(scores_table(scores))
    console.print(f"Scores: {output / 'scores.json'}; heat map: {output / 'scores.png'}")


def _data_config(data: str, test_subjects: list[str], batch_size: int) -> DataConfig:
    protocol: Literal["holdout", "official"] = "holdout" if test_subjects else "official"
    return DataConfig(name_or_path=data, protocol=protocol, test_subjects=tuple(test_subjects), batch_size=batch_size)


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
