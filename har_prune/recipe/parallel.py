"""Folds side by side: a process each, with its share of the cores, or a GPU."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars

from har_prune.data.load import LabelledData, load_configured
from har_prune.errors import ProcessGroupError, RecipeError
from har_prune.recipe.accelerator import cores
from har_prune.recipe.folds import ended
from har_prune.recipe.load import load_plugins
from har_prune.recipe.schema import Recipe
from har_prune.runtime.console import quiet_libraries, say

_shared: dict[str, LabelledData] = {}  # of a worker: what all its folds read


def run_side_by_side(
    recipe: Recipe,
    folds: dict[str, list[Recipe]],
    launch: Callable[..., Any],
    command: str,
    precision: str,
) -> None:
    """Runs the folds that have not ended, `recipe.folds_in_parallel` at a time; each writes to FOLD.log beside it.

    Each computes as it would alone with as many threads. The first error ends all; what they have kept stays, and the
    same command goes on from there.

    Args:
        recipe: The recipe of all folds.
        folds: As `folds_of` made them.
        launch: Runs one recipe: `launch(fold, command, data, precision)`; a function a process can import.
        command: What was typed, for the record.
        precision: What the recipe's precision means.

    Raises:
        RecipeError: Several processes were launched, or there would be more threads than cores.
        ProcessGroupError: A process died.
        HarPruneError: What a fold raised.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError("folds_in_parallel starts a process for each fold itself: launch one, or leave it out.")
    wanted, threads = recipe.folds_in_parallel, recipe.num_threads
    if isinstance(threads, int) and threads > 1 and threads * wanted > cores():
        raise RecipeError(
            f"folds_in_parallel={wanted} with num_threads={threads} is more than the {cores()} cores of this machine, "
            "and threads that wait for each other cost up to 200 times: lower one of them, or leave num_threads out."
        )
    left = [fold for runs in zip(*folds.values(), strict=True) for fold in runs if not ended(fold)]
    if not left:
        return
    context = multiprocessing.get_context("spawn")  # a forked process could not use threads or GPUs of its parent
    places = context.SimpleQueue()
    for place in range(wanted):
        places.put(place)
    say(f"{len(left)} folds, {wanted} side by side; each writes to a .log beside its folder")
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(wanted, context, _begin, (places, wanted, torch.cuda.device_count())) as pool:
        try:
            running = [pool.submit(_work, launch, fold, command, precision) for fold in left]
            for done, future in enumerate(as_completed(running), start=1):
                say(f"[{done} of {len(left)}] {future.result()}")
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)  # which waits for them: of two who wait, one may not learn of an end
            if isinstance(error, BrokenProcessPool):
                raise ProcessGroupError(
                    f"a fold's process died: {error} Is there enough memory for {wanted} of them? The .log files end "
                    "where it did. Start the same command again: it continues."
                ) from error
            raise


def _begin(places: Any, wanted: int, gpus: int) -> None:
    """In a new process: its share of the machine. It ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    place = places.get()
    if gpus:
        named = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = named[place % len(named)]
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        # By how many were asked for, not by how many are left: a fold that goes on has as many threads as before.
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, mine[place::wanted] or [mine[place % len(mine)]])
    quiet_libraries()
    disable_progress_bars()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(launch: Callable[..., Any], fold: Recipe, command: str, precision: str) -> str:
    """Runs a fold; a line about it."""
    load_plugins(fold.plugins)
    if "data" not in _shared:
        _shared["data"] = load_configured(fold.data)  # the same for all folds
    log = fold.output_dir.with_name(f"{fold.output_dir.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        history = launch(fold, command, _shared["data"], precision)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in history.after.metrics["test"].figures.items())
    return f"{fold.output_dir}: {shown}"
