"""The steps of a recipe, from data to a verified checkpoint. Started again, a run continues where it was stopped."""

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import PreTrainedModel

from har_prune.checkpoints.card import loading_code
from har_prune.checkpoints.load import load_model
from har_prune.checkpoints.push import check_login, push_pruned
from har_prune.checkpoints.save import save_pruned
from har_prune.data.batches import make_loader
from har_prune.data.load import LabelledData, load_configured
from har_prune.evaluation.macs import count_macs
from har_prune.pruning.history import PruningHistory
from har_prune.pruning.loop import PruningResult, data_fingerprints, prune
from har_prune.pruning.plan import candidates, protected_blocks
from har_prune.pruning.store import RunFolder
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.folds import folds_of, keep_summary, run_folds
from har_prune.recipe.prepare import Prepared, calibration_rows, prepare
from har_prune.recipe.schema import Recipe
from har_prune.reporting.report import run_report
from har_prune.reporting.summary import summary_table
from har_prune.reporting.trajectory import plot_trajectory
from har_prune.runtime.console import console
from har_prune.runtime.files import whole_file, whole_folder
from har_prune.runtime.tracker import JsonLinesTracker
from har_prune.training.loop import train_model


def launch(recipe: Recipe, command: str, data: LabelledData | None = None) -> PruningHistory:
    """Runs a recipe on an Accelerator of its own; `data` where they are loaded already.

    Raises:
        HarPruneError: Bad input.
    """
    trackers = [JsonLinesTracker(recipe.output_dir / "metrics.jsonl"), *recipe.log_with]
    accelerator = make_accelerator(recipe.precision, recipe.num_threads, trackers, recipe.output_dir)
    console.quiet = not accelerator.is_main_process
    return run(recipe, accelerator, command, data)


def launch_folds(recipe: Recipe, command: str) -> None:
    """Runs a recipe for each subject in turn, and says what all folds say together.

    Raises:
        HarPruneError: Bad input, before the first fold begins.
    """
    accelerator = make_accelerator(recipe.precision, recipe.num_threads)
    console.quiet = not accelerator.is_main_process
    data = load_configured(recipe.data)
    histories = run_folds(folds_of(recipe, data), lambda fold: launch(fold, command, data))
    if accelerator.is_main_process:
        keep_summary(recipe, histories, command, console)


def run(recipe: Recipe, accelerator: Accelerator, command: str, data: LabelledData | None = None) -> PruningHistory:
    """The steps of a recipe; every step is one call.

    Raises:
        HarPruneError: Bad input; nothing half-written is left behind.
    """
    made = prepare(recipe, data)
    if recipe.save.push_to_hub is not None:
        check_login(recipe.save.push_to_hub)
    data, splits, model, preprocess = made.data, made.splits, made.model, made.preprocess
    train = make_loader(data, splits.train, preprocess, recipe.data.batch_size, augment=recipe.data.augment)
    sets = {
        name: make_loader(data, rows, preprocess, recipe.data.batch_size)
        for name, rows in (("validation", splits.validation), ("test", splits.test))
    }
    calibration = make_loader(data, calibration_rows(recipe, splits), preprocess, recipe.data.batch_size)
    # Everything is checked; only now something is written.
    folder = RunFolder(recipe.output_dir, recipe.fingerprint, writes=accelerator.is_main_process)
    folder.compare_data(data_fingerprints(train, calibration, sets))  # before the original is trained on them
    accelerator.wait_for_everyone()
    accelerator.init_trackers("har_prune")
    if recipe.train is not None:
        path = recipe.output_dir / "original"
        if not path.exists():
            train_model(model, train, sets["validation"], recipe.train, accelerator=accelerator, seed=recipe.seed)
            keep_original(path, model, made.processor, accelerator)
        # Also right after training: what is computed must not depend on whether the run was interrupted here.
        model = load_model(type(model), path).eval()
    result = prune(model, train, calibration, sets, recipe, accelerator=accelerator)
    if accelerator.is_main_process:
        keep(folder, result, made, recipe, command)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return result.history


def keep_original(path: Path, model: PreTrainedModel, processor: Any, accelerator: Accelerator) -> None:
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
            example_inputs=made.one_example,
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
    console.print(f"validation: {splits.validation_from}", markup=False)
    console.print(f"{len(stack)} blocks in {len(stack.stages)} stage(s), {len(allowed)} candidates: {allowed}")
    console.print(f"{count_macs(model, made.one_example):,} MACs, {model.num_parameters():,} parameters")
    console.print(
        f"first sweep: {samples} samples x {evaluations} block evaluations "
        f"(removing and re-running: {len(stack) + len(allowed) * (len(stack) - 1)})"
    )
