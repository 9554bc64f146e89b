"""`accelerate launch har_prune/run.py RECIPE [key=value ...]`: a whole run, from data to a verified checkpoint.

Thin: it reads the recipe and calls the steps. Started again with the same recipe it continues where it was stopped.
"""

import sys
from pathlib import Path

if sys.path and sys.path[0] == str(Path(__file__).resolve().parent):
    # Launched as a file, Python puts this folder first, and har_prune.data would shadow any module called data.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json
import shlex
from dataclasses import dataclass
from typing import Annotated, Any

import datasets
import numpy as np
import torch
import transformers
import typer
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.atomic import whole_file, whole_folder
from har_prune.blocks.find import find_blocks
from har_prune.blocks.stack import BlockStack
from har_prune.data.batches import Inputs, inputs_for, make_loader
from har_prune.data.load import LabelledData, load_data
from har_prune.data.protocols import Splits, make_splits
from har_prune.errors import CheckpointError, HarPruneError
from har_prune.evaluation.macs import count_macs
from har_prune.folds import folds_of, is_all_folds, keep_summary, run_folds
from har_prune.launch import make_accelerator
from har_prune.loading import load_model
from har_prune.parent import load_parent, make_parent
from har_prune.pruning.history import PruningHistory
from har_prune.pruning.loop import PruningResult, prune
from har_prune.pruning.plan import candidates, check_settings, protected_blocks
from har_prune.pruning.store import RunFolder
from har_prune.recipe import Recipe, load_recipe
from har_prune.reporting.report import run_report
from har_prune.reporting.summary import summary_table
from har_prune.reporting.trajectory import plot_trajectory
from har_prune.saving.card import loading_code
from har_prune.saving.hub import check_login, push_pruned
from har_prune.saving.verified import save_pruned
from har_prune.training.loop import train_model
from har_prune.training.tracker import JsonLinesTracker

console = Console(stderr=True)


@dataclass(frozen=True)
class Prepared:
    """What a recipe names, loaded and checked; nothing is written yet."""

    data: LabelledData
    splits: Splits
    model: PreTrainedModel
    processor: Any
    inputs: Inputs
    few: dict[str, Tensor]
    stack: BlockStack

    @property
    def example(self) -> dict[str, Tensor]:
        """Model inputs of one example."""
        return {key: value[:1] for key, value in self.few.items()}


def prepare(recipe: Recipe) -> Prepared:
    """Loads data and network and refuses what cannot work.

    Raises:
        HarPruneError: Bad input.
    """
    data = load_data(recipe.data.name_or_path, recipe.data.subset, recipe.data.revision)
    splits = make_splits(data, recipe.data, recipe.seed)
    if recipe.model.checkpoint is not None:
        model, processor = load_parent(recipe.model.checkpoint, data)
    else:
        set_seed(recipe.seed)
        model, processor = make_parent(dict(recipe.model.config or {}), data, splits.train)
    inputs = inputs_for(data, processor, str(recipe.model.checkpoint), recipe.data.max_tokens)
    few = {key: value for key, value in inputs(data.raw(splits.calibration[:2])).items() if key != "labels"}
    try_on(model, few)
    made = Prepared(data, splits, model, processor, inputs, few, find_blocks(model, few))
    check_settings(made.stack, recipe.prune, made.example)
    return made


def try_on(model: PreTrainedModel, example: dict[str, Tensor]) -> None:
    """Runs the network on a few examples of the data, before anything is built on it.

    Raises:
        CheckpointError: It cannot, or gives NaN.
    """
    try:
        with torch.no_grad():
            logits = model.eval()(**example).logits
    except Exception as error:  # whatever a forward raises on inputs it was not made for
        raise CheckpointError(f"{type(model).__name__} cannot run on these data: {error}") from error
    if not bool(logits.isfinite().all()):
        raise CheckpointError(f"{type(model).__name__} gives NaN or infinity: its weights are damaged.")


def launch(recipe: Recipe, command: str) -> PruningHistory:
    """Runs a recipe on an Accelerator of its own.

    Raises:
        HarPruneError: Bad input.
    """
    trackers = [JsonLinesTracker(recipe.output_dir / "metrics.jsonl"), *recipe.log_with]
    accelerator = make_accelerator(recipe.precision, recipe.num_threads, trackers, recipe.output_dir)
    console.quiet = not accelerator.is_main_process
    return run(recipe, accelerator, command)


def launch_folds(recipe: Recipe, command: str) -> None:
    """Runs a recipe for each subject in turn, and says what all folds say together.

    Raises:
        HarPruneError: Bad input, before the first fold begins.
    """
    accelerator = make_accelerator(recipe.precision, recipe.num_threads)
    console.quiet = not accelerator.is_main_process
    histories = run_folds(folds_of(recipe), lambda fold: launch(fold, command))
    if accelerator.is_main_process:
        keep_summary(recipe, histories, command, console)


def run(recipe: Recipe, accelerator: Accelerator, command: str) -> PruningHistory:
    """The steps of a recipe; every step is one call.

    Raises:
        HarPruneError: Bad input; nothing half-written is left behind.
    """
    made = prepare(recipe)
    if recipe.save.push_to_hub is not None:
        check_login(recipe.save.push_to_hub)
    data, splits, model, inputs = made.data, made.splits, made.model, made.inputs
    train = make_loader(data, splits.train, inputs, recipe.data.batch_size, augment=recipe.data.augment)
    sets = {
        name: make_loader(data, rows, inputs, recipe.data.batch_size)
        for name, rows in (("validation", splits.validation), ("test", splits.test))
    }
    # Everything is checked; only now something is written.
    folder = RunFolder(recipe.output_dir, recipe.fingerprint, writes=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("har_prune")
    if recipe.train is not None:
        path = recipe.output_dir / "parent"
        if not path.exists():
            train_model(model, train, sets["validation"], recipe.train, accelerator=accelerator, seed=recipe.seed)
            keep_parent(path, model, made.processor, accelerator)
        # Also right after training: what is computed must not depend on whether the run was interrupted here.
        model = load_model(type(model), path).eval()
    calibration = make_loader(data, calibration_rows(recipe, splits), inputs, recipe.data.batch_size)
    result = prune(model, train, calibration, sets, recipe, accelerator=accelerator)
    if accelerator.is_main_process:
        keep(folder, result, made, recipe, command)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result.history


def calibration_rows(recipe: Recipe, splits: Splits) -> np.ndarray:
    """A seeded sample of the rows that may calibrate, in random order; all when there are fewer than wanted."""
    shuffled = np.random.default_rng(recipe.seed).permutation(splits.calibration)
    return shuffled[: recipe.prune.calibration.samples]


def keep_parent(path: Path, model: PreTrainedModel, processor: Any, accelerator: Accelerator) -> None:
    """Keeps the trained, unpruned network; a run started again loads it from there."""
    if accelerator.is_main_process:
        with whole_folder(path) as partial:
            model.save_pretrained(partial)
            processor.save_pretrained(partial)
    accelerator.wait_for_everyone()


def keep(folder: RunFolder, result: PruningResult, made: Prepared, recipe: Recipe, command: str) -> None:
    """Saves the verified checkpoint, writes report and plot, prints the table and how to load the result."""
    model, history, pruned = result.model, result.history, folder.path / "pruned"
    if not pruned.exists():
        save_pruned(
            model,
            pruned,
            history=history,
            processor=made.processor,
            example_inputs=made.example,
            command=command,
            max_shard_size=recipe.save.max_shard_size,
        )
    with whole_file(folder.path / "report.md") as partial:
        partial.write_text(run_report(history, command), encoding="utf-8")
    with whole_file(folder.path / "trajectory.png") as partial:
        plot_trajectory(history, partial)
    console.print(summary_table(history))
    if not result.target_met:
        console.print("min_accuracy ended the run before the other target was met.", style="yellow")
    console.print(f"Removed blocks, by index in the original network: {history.removed}")
    console.print(f"Report: {folder.path / 'report.md'}; plot: {folder.path / 'trajectory.png'}")
    console.print("Load the result:", style="bold")
    print(f"  transformers.{loading_code(model, str(pruned))}")
    if recipe.save.push_to_hub is not None:
        pushed = push_pruned(pruned, recipe.save.push_to_hub, private=recipe.save.private)
        console.print(f"Pushed: {pushed.url}, commit {pushed.commit}")


def show_plan(recipe: Recipe) -> None:
    """The dry run: the resolved recipe, the blocks, and what a sweep costs."""
    made = prepare(recipe)
    model, splits, stack = made.model, made.splits, made.stack
    allowed = candidates(stack, recipe.prune, protected_blocks(stack, recipe.prune.protected))
    samples = len(calibration_rows(recipe, splits))
    evaluations = len(stack) + sum(len(stack) - index - 1 for index in allowed)
    console.print_json(json.dumps({**recipe.fingerprint, "output_dir": str(recipe.output_dir)}))
    console.print(f"examples: {len(splits.train)} train, {len(splits.validation)} validate, {len(splits.test)} test")
    console.print(f"{len(stack)} blocks in {len(stack.stages)} stage(s), {len(allowed)} candidates: {allowed}")
    console.print(f"{count_macs(model, made.example):,} MACs, {model.num_parameters():,} parameters")
    console.print(
        f"first sweep: {samples} samples x {evaluations} block evaluations "
        f"(removing and re-running: {len(stack) + len(allowed) * (len(stack) - 1)})"
    )


app = typer.Typer(add_completion=False)


@app.command()
def main(
    recipe: Annotated[Path, typer.Argument(help="A YAML recipe, see recipes/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, dotted: prune.target.blocks=12")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show recipe, blocks and cost, and stop.")] = False,
) -> None:
    """Prunes a network as a recipe says; started again, it continues."""
    try:
        resolved = load_recipe(recipe, overrides)
        command = shlex.join(["accelerate", "launch", "har_prune/run.py", *sys.argv[1:]])
        if dry_run:
            console.quiet = not make_accelerator(resolved.precision, resolved.num_threads).is_main_process
            show_plan(next(iter(folds_of(resolved).values())) if is_all_folds(resolved) else resolved)
        elif is_all_folds(resolved):
            launch_folds(resolved, command)
        else:
            launch(resolved, command)
    except (HarPruneError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def quiet_libraries() -> None:
    """Leaves the terminal to our own bars and messages."""
    hidden = are_progress_bars_disabled()
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not hidden:  # the line above hides ours as well
        enable_progress_bars()


if __name__ == "__main__":
    quiet_libraries()
    app()
