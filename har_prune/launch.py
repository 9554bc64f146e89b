"""The one Accelerator of a run, and the checks that its processes know of each other."""

import os
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from har_prune.errors import ProcessGroupError


def make_accelerator(
    precision: str = "fp32", num_threads: int | None = None, trackers: Iterable[GeneralTracker] = ()
) -> Accelerator:
    """Makes the Accelerator of a run.

    Args:
        precision: "fp32", "bf16", "fp16", or "auto": bf16 where GPU or CPU compute in it, else fp32.
        num_threads: CPU threads of this process; None shares the cores among the processes of this machine.
        trackers: Where `Accelerator.log` sends metrics.

    Raises:
        ProcessGroupError: Several processes were launched that would each work alone.
    """
    # cpu=True is what makes Accelerate join processes on a machine without a GPU (1.15).
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision=_mixed_precision(precision), log_with=list(trackers)
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise ProcessGroupError(
            f"{launched} processes were launched (WORLD_SIZE) and this one knows of {accelerator.num_processes}: they "
            "would overwrite each other. On CPU use `torchrun --standalone --nproc_per_node N har_prune/run.py ...`; "
            "for one process unset WORLD_SIZE."
        )
    # accelerate launch and torchrun set OMP_NUM_THREADS=1, which leaves the other cores idle.
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(num_threads or max(1, len(os.sched_getaffinity(0)) // local))
    return accelerator


def _mixed_precision(precision: str) -> str:
    if precision == "auto":
        return "bf16" if _computes_in_bf16() else "no"
    return "no" if precision == "fp32" else precision


def _computes_in_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
