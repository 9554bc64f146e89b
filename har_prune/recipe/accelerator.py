"""The one Accelerator of a run, and the checks that its processes know of each other."""

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from torch import Tensor
from transformers import PreTrainedModel

from har_prune.errors import ProcessGroupError, RecipeError
from har_prune.runtime.batches import inputs_of, logits_of
from har_prune.runtime.devices import uses_gpu
from har_prune.runtime.processes import new_accelerator, refuse_sharding


def make_accelerator(
    precision: str = "fp32",
    num_threads: int | Literal["auto"] | None = None,
    trackers: Sequence[GeneralTracker | str] = (),
    logging_dir: Path | None = None,
) -> Accelerator:
    """Makes the Accelerator of a run.

    Args:
        precision: "fp32", "bf16", "fp16", or "auto": bf16 where GPU or CPU compute in it, else fp32 (see
            `timed_precision` for what a run on one CPU does).
        num_threads: See `set_threads`.
        trackers: Where `Accelerator.log` sends metrics: trackers, or names accelerate knows, e.g. "tensorboard".
        logging_dir: Where trackers write that need a folder.

    Raises:
        ProcessGroupError: Several processes were launched that would each work alone, or share a model in a way that
            was never tried.
        RecipeError: A tracker that is not installed, or fp16 without a GPU.
        ValueError: What accelerate says of an environment nobody foresaw.
    """
    # accelerate leaves out a tracker it cannot import, without a word.
    available = [str(name) for name in get_available_trackers()]
    for name in trackers:
        if isinstance(name, str) and name not in available:
            raise RecipeError(f"tracker {name!r} is unknown or not installed (installed: {', '.join(available)}).")
    refuse_sharding()
    if precision == "fp16" and not uses_gpu():
        raise RecipeError("precision fp16 needs a GPU; in this run use auto, bf16 or fp32.")
    for kind in ("mps", "xpu", "npu"):
        if not uses_gpu() and getattr(torch, kind, None) is not None and getattr(torch, kind).is_available():
            warnings.warn(f"device {kind} was never tried: this run computes on the CPU", stacklevel=2)
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and "ACCELERATE_USE_CPU" in os.environ:
        # What `accelerate launch --cpu --num_processes N` leaves behind: it starts one process (accelerate 1.15).
        raise ProcessGroupError(
            "accelerate launch was asked for several processes on CPU and started one. Use `torchrun --standalone "
            "--nproc_per_node N har_prune/run.py ...`, or ask for one; unset MASTER_ADDR if it was set by hand."
        )
    try:
        accelerator = new_accelerator(
            mixed_precision=_mixed_precision(precision), log_with=list(trackers) or None, project_dir=logging_dir
        )
    except ValueError as error:
        if launched == 1:
            raise
        raise ProcessGroupError(
            f"WORLD_SIZE={launched} processes cannot join: {error}. Start them with `torchrun --standalone "
            "--nproc_per_node N har_prune/run.py ...`; for one process unset WORLD_SIZE."
        ) from error
    if launched != accelerator.num_processes:
        raise ProcessGroupError(
            f"{launched} processes were launched (WORLD_SIZE) and this one knows of {accelerator.num_processes}: they "
            "would overwrite each other. On CPU use `torchrun --standalone --nproc_per_node N har_prune/run.py ...`; "
            "for one process unset WORLD_SIZE."
        )
    set_threads(num_threads)
    return accelerator


def set_threads(num_threads: int | Literal["auto"] | None) -> None:
    """Sets the CPU threads of this process.

    Threads wait for each other by spinning: more of them than there are idle cores cost up to 200 times, so what the
    user says by OMP_NUM_THREADS counts (accelerate launch and torchrun set it to 1 where nobody did).

    Args:
        num_threads: As many; "auto" shares the cores among the processes of this machine; None does so where
            OMP_NUM_THREADS says nothing.
    """
    if num_threads is None and os.environ.get("OMP_NUM_THREADS", "").isdecimal():
        num_threads = int(os.environ["OMP_NUM_THREADS"])
    if num_threads is None or num_threads == "auto":
        num_threads = cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, num_threads))


def timed_precision(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Literal["bf16", "fp32"]:
    """The faster of the two for a training step of a network on this CPU: which one it is depends on its width.

    The model comes back as it was: it computes in eval mode, and its gradients are dropped.
    """
    was_training = model.training
    model.eval()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for number in range(4):
        for in_bf16, found in seconds.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16), torch.enable_grad():
                logits_of(model(**inputs_of(batch))).float().square().mean().backward()
            model.zero_grad(set_to_none=True)
            if number:  # the first one allocates
                found.append(time.perf_counter() - start)
    model.train(was_training)
    return "bf16" if min(seconds[True]) < min(seconds[False]) else "fp32"


def may_be_timed(precision: str) -> bool:
    """Whether "auto" is decided by a clock: one process on a CPU that has bf16."""
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and not uses_gpu()
    return precision == "auto" and alone and computes_in_bf16()


def cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _mixed_precision(precision: str) -> str:
    if precision == "auto":
        return "bf16" if computes_in_bf16() else "no"
    return "no" if precision == "fp32" else precision


def computes_in_bf16() -> bool:
    """Whether the processor that a run takes has bf16, and need not emulate it."""
    if uses_gpu():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch (2.13) has no public question for this.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
