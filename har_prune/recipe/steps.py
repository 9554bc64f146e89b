"""The steps of a recipe, from data to a verified checkpoint. Started again, a run continues where it was stopped."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import yaml
from accelerate import Accelerator, PartialState
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.checkpoints.card import loading_code
from har_prune.checkpoints.load import check_checkpoint
from har_prune.checkpoints.push import check_login, push_pruned
from har_prune.checkpoints.save import save_pruned, verify_saved
from har_prune.data.batches import make_loader
from har_prune.data.load import LabelledData, load_configured
from har_prune.errors import OutputFolderError, RecipeError, SaveVerificationError
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.measurement import check_all
from har_prune.pruning.history import PruningHistory, PruningStep
from har_prune.pruning.loop import PruningResult, prune
from har_prune.pruning.plan import candidates, check_latency, protected_blocks, steps_left
from har_prune.pruning.store import RunFolder, data_fingerprints, history_at
from har_prune.pruning.structures import widths_of
from har_prune.pruning.target import Target
from har_prune.recipe.accelerator import make_accelerator, may_be_timed, set_threads, timed_precision
from har_prune.recipe.folds import (
    folds_of,
    is_all_folds,
    keep_summary,
    refuse_other_data,
    refuse_other_originals,
    run_folds,
    seeded_recipes,
)
from har_prune.recipe.originals import Originals, check_original_from
from har_prune.recipe.parallel import run_side_by_side
from har_prune.recipe.prepare import Prepared, prepare
from har_prune.recipe.schema import Recipe
from har_prune.reporting.report import run_report
from har_prune.reporting.structures import choice_text, removed_text, units_left
from har_prune.reporting.summary import controls_table, summary_table
from har_prune.reporting.trajectory import latency_text, plot_trajectory
from har_prune.runtime.console import console, say
from har_prune.runtime.devices import uses_gpu
from har_prune.runtime.files import whole_file
from har_prune.runtime.processes import agreed
from har_prune.runtime.tracker import JsonLinesTracker


def launch_recipe(recipe: Recipe, command: str, *, dry_run: bool = False) -> None:
    """Runs a recipe, every fold of it where it has several, or shows what it would do.

    Raises:
        HarPruneError: Bad input.
    """
    if recipe.model.checkpoint is not None:
        check_checkpoint(recipe.model.checkpoint)
    if dry_run:
        data = load_configured(recipe.data)
        show_plan(next(iter(folds_of(recipe, data).values()))[0] if is_all_folds(recipe) else recipe, data)
    elif is_all_folds(recipe):
        launch_folds(recipe, command)
    else:
        recipes = seeded_recipes(recipe)
        refuse_other_originals(recipes)
        shared = load_configured(recipe.data) if len(recipes) > 1 else None
        precision = None if shared is None else _shared_precision(recipes[0], shared)
        for seeded in recipes:
            launch(seeded, command, shared, precision)
        main = PartialState().is_main_process
        PartialState().destroy_process_group()  # the others need not wait for an upload
        if main and recipe.save.push_to_hub is not None:
            pushed = push_pruned(recipe.output_dir / "pruned", recipe.save.push_to_hub, private=recipe.save.private)
            say(f"Pushed: {pushed.url}, commit {pushed.commit}")


def launch(
    recipe: Recipe, command: str, data: LabelledData | None = None, precision: str | None = None
) -> PruningHistory:
    """Runs a recipe on an Accelerator of its own.

    Args:
        recipe: The recipe.
        command: What was typed, for the record.
        data: Its data, where they are loaded already.
        precision: What its precision means, where that is decided already.

    Raises:
        HarPruneError: Bad input.
    """
    trackers = [JsonLinesTracker(recipe.output_dir / "metrics.jsonl"), *recipe.log_with]
    set_threads(recipe.num_threads)
    made = prepare(recipe, data)
    precision = precision or _precision(recipe, made)
    accelerator = make_accelerator(precision, recipe.num_threads, trackers, recipe.output_dir)
    return run(recipe, made, accelerator, command)


def _precision(recipe: Recipe, made: Prepared) -> str:
    """What "auto" means here; a run goes on with what it, or its original, began with."""
    if not may_be_timed(recipe.precision):
        return recipe.precision
    for folder in (recipe.output_dir, recipe.original_from):
        if folder is not None and (kept := folder / "precision.txt").exists():
            return kept.read_text(encoding="utf-8")
    rows = made.splits.train[: recipe.data.batch_size]
    batch = next(iter(make_loader(made.data, rows, made.preprocess, recipe.data.batch_size)))
    precision = timed_precision(made.model, batch)
    say(f"precision auto: {precision} is the faster one for this network on this processor")
    return precision


def _shared_precision(first: Recipe, data: LabelledData) -> str:
    """What "auto" means for several runs: decided once, because a process has one precision."""
    if not may_be_timed(first.precision):
        return first.precision
    set_threads(first.num_threads)
    return _precision(first, prepare(first, data))


def launch_folds(recipe: Recipe, command: str) -> None:
    """Runs a recipe for each subject in turn, and says what all folds say together.

    Raises:
        HarPruneError: Bad input, before the first fold begins.
    """
    data = load_configured(recipe.data)
    folds = folds_of(recipe, data)
    precision = _shared_precision(next(iter(folds.values()))[0], data)
    refuse_other_data(recipe, folds, data)
    if recipe.folds_in_parallel > 1:
        run_side_by_side(recipe, folds, launch, command, precision)
    histories = run_folds(folds, lambda fold: launch(fold, command, data, precision))
    state = PartialState(cpu=not uses_gpu())
    if state.is_main_process:
        keep_summary(recipe, histories, command)
    state.destroy_process_group()


def run(recipe: Recipe, made: Prepared, accelerator: Accelerator, command: str) -> PruningHistory:
    """The steps of a recipe; every step is one call.

    Raises:
        HarPruneError: Bad input; nothing half-written is left behind.
        RecipeError: The processes cannot share a batch alike.
    """
    if recipe.save.push_to_hub is not None:
        check_login(recipe.save.push_to_hub)
    if recipe.data.batch_size % accelerator.num_processes:
        raise RecipeError(
            f"data.batch_size={recipe.data.batch_size} is shared by {accelerator.num_processes} processes: choose a "
            "multiple of that."
        )
    loaders, model = made.loaders(recipe), made.model
    train, calibration, sets = loaders.train, loaders.calibration, loaders.sets
    check_all(recipe.evaluate, sets)
    if agreed(not RunFolder.is_begun(recipe.output_dir), accelerator):
        check_latency(made.stack, recipe.prune, made.one_example, accelerator)
    fingerprints = data_fingerprints(train, calibration, sets)
    if not (recipe.output_dir / "original").exists():
        check_original_from(recipe, made, accelerator, fingerprints)
    # Everything is checked; only now something is written.
    folder = RunFolder(recipe.output_dir, recipe.fingerprint, writes=accelerator.is_main_process)
    folder.compare_data(fingerprints)  # before the original is trained on them
    folder.compare_inputs(made.example_inputs)
    if accelerator.is_main_process:
        _keep_beginning(recipe, accelerator)
    accelerator.wait_for_everyone()
    accelerator.init_trackers("har_prune")
    teachers: list[PreTrainedModel] = []
    if recipe.train is not None:
        training = Originals(recipe, made, folder, train, sets["validation"], accelerator)
        model = training.original()
        distill = recipe.heal.distill if recipe.heal else None
        teachers = [training.another(number) for number in range(1, distill.originals if distill else 1)]
    result = prune(
        model,
        train,
        calibration,
        sets,
        recipe,
        accelerator=accelerator,
        teachers=teachers,
        on_step=partial(say_step, recipe.prune.target),
        example_inputs=made.example_inputs,
    )
    if accelerator.is_main_process:
        keep(folder, result, made, recipe, command)
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:  # not end_training(), which ends the processes' group: a fold may follow
        tracker.finish()
    return result.history


def _keep_beginning(recipe: Recipe, accelerator: Accelerator) -> None:
    """Keeps the recipe as `har-prune run` reads it, and what "auto" was decided to mean."""
    values = recipe.model_dump(mode="json", exclude_unset=True)
    texts = {"recipe.yaml": yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}
    if may_be_timed(recipe.precision):
        texts["precision.txt"] = "bf16" if accelerator.mixed_precision == "bf16" else "fp32"
    for name, text in texts.items():
        if not (recipe.output_dir / name).exists():
            with whole_file(recipe.output_dir / name) as partial:
                partial.write_text(text, encoding="utf-8")


def say_step(target: Target, step: PruningStep, history: PruningHistory) -> None:
    """One line an iteration, also where there is no terminal to draw bars on."""
    figures = ", ".join(f"{name} {value:.2f}" for name, value in step.metrics["validation"].figures.items())
    cost = f"{len(step.remaining)} blocks, {step.cost.macs:,} MACs"
    if step.cost.latency is not None and target.latency_ms is not None:
        cost += f", {latency_text(step.cost.latency)} ms"
        if (more := steps_left(history.iterations, target)) is not None:
            cost += f" (about {math.ceil(more)} more to {target.latency_ms.at_most:g} ms)"
    what = f"original network: {cost}"
    if step.iteration:
        closer = f" ({choice_text(step)})" if step.choice else ""
        what = f"removed {removed_text(step)}{closer}, left {cost} (-{100 * history.macs_reduction(step):.1f} %)"
    when = " after healing" if step.healing else ""
    say(f"[{step.iteration}] {what}; validation{when} {figures}; {step.seconds:.1f} s")


def keep(folder: RunFolder, result: PruningResult, made: Prepared, recipe: Recipe, command: str) -> None:
    """Saves the verified checkpoint, writes report and plot, prints the table and how to load the result."""
    model, history, pruned = result.model, result.history, folder.path / "pruned"
    if pruned.exists():
        _refuse_altered(pruned, result, made.one_example)
        if not set(history_at(pruned).controls) >= set(history.controls):
            shutil.rmtree(pruned)  # a run that had ended, and was given more controls
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
    if history.controls:
        console.print(controls_table(history))
    if not result.target_met:
        say(_missed(history, recipe.prune.target), style="yellow")
    say(f"Removed blocks, by index in the original network: {history.removed}")
    if any(history.after.units.values()):
        left = {block: ", ".join(units_left(history, block)) for block in history.after.remaining}
        say(f"Narrowed blocks: {'; '.join(f'{block}: {units}' for block, units in left.items() if units) or 'none'}")
    say(f"Report: {folder.path / 'report.md'}; plot: {folder.path / 'trajectory.png'}")
    say("Load the result:", style="bold")
    print(f"  transformers.{loading_code(model, str(pruned))}")


def _missed(history: PruningHistory, target: Target) -> str:
    """Why a run ended before its target was met."""
    after = history.after
    unmet = target.unmet(history.before.cost, after.cost, len(after.remaining))
    found = ", ".join(f"{name}: {value}" for name, value in unmet.items())
    latency, budget = after.cost.latency, target.latency_ms
    if latency and budget and latency.is_undecided(budget.at_most):
        return f"Whether the latency budget of {budget.at_most:g} ms holds cannot be told: {latency.interval_ms} ms."
    ended = "min_accuracy ended the run" if target.min_accuracy is not None else "nothing was left to remove"
    return f"{ended} before the target was met ({found})."


def _refuse_altered(pruned: Path, result: PruningResult, one_example: dict[str, Tensor]) -> None:
    try:
        verify_saved(result.model, pruned, one_example)
    except SaveVerificationError as error:
        raise OutputFolderError(
            f"{pruned} is not the network of this run any more ({error}). Move it away and start again: it is saved "
            "anew."
        ) from error


def show_plan(recipe: Recipe, data: LabelledData) -> None:
    """The dry run: the resolved recipe, the blocks, and what a sweep costs."""
    made = prepare(recipe, data)
    model, splits, stack = made.model, made.splits, made.stack
    protected = protected_blocks(stack, recipe.prune.protected)
    allowed = candidates(stack, recipe.prune, protected) if "blocks" in recipe.prune.structures else []
    samples = len(made.calibration_rows(recipe.prune.calibration.samples, recipe.seed))
    evaluations = len(stack) + sum(len(stack) - index - 1 for index in allowed)
    console.print_json(json.dumps({**recipe.fingerprint, "output_dir": str(recipe.output_dir)}))
    say(f"examples: {len(splits.train)} train, {len(splits.validation)} validate, {len(splits.test)} test")
    say(f"validation: {splits.validation_from}")
    say(f"{len(stack)} blocks in {len(stack.stages)} stage(s), {len(allowed)} candidates: {allowed}")
    say(f"{count_macs(model, made.one_example):,} MACs, {model.num_parameters():,} parameters")
    if "widths" in recipe.prune.structures:
        widths = widths_of(stack, recipe.prune.widths, protected)
        say(f"units inside blocks: {widths.units}; {len(widths.narrowable)} of {len(widths)} widths can be narrowed")
    if not allowed:
        return
    say(
        f"first sweep: {samples} samples x {evaluations} block evaluations "
        f"(removing and re-running: {len(stack) + len(allowed) * (len(stack) - 1)})"
    )
