"""The processes of a run: which kinds were tried, and what they agree on."""

import os
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast_object_list,
)

from har_prune.errors import ProcessGroupError
from har_prune.runtime.devices import uses_gpu

Value = TypeVar("Value")

_TRIED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_DEVICES = ("cpu", "cuda", "meta")  # meta: what is offloaded
_NEVER_TRIED = (
    "this works with {}, which har_prune was never tried with: use one process or plain data parallelism (DDP) on "
    "CUDA GPUs or the CPU, e.g. Accelerator(cpu=True), model.to('cpu')."
)
# What `accelerate launch` sets for the kinds of sharding that take a model apart.
_SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor parallelism",
}


def agreed(value: Value, accelerator: Accelerator | None) -> Value:
    """The main process's value, in all of them: last bits differ between devices, and a decision must not.

    Args:
        value: Something that can be pickled.
        accelerator: Joins the processes; None = there is one.
    """
    if accelerator is None or accelerator.num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def new_accelerator(**options: Any) -> Accelerator:
    """An accelerator on CUDA GPUs or the CPU, set up as training and scoring in several processes need it.

    Args:
        options: What else `Accelerator` takes.
    """
    return Accelerator(
        # True is what makes Accelerate join processes on a machine without a GPU (1.15).
        cpu=not uses_gpu(),
        # The batch size is that of all processes together, however many there are. A copy to a GPU does not wait for
        # what it computes: loaders pin their batches there.
        dataloader_config=DataLoaderConfiguration(split_batches=True, non_blocking=uses_gpu()),
        kwargs_handlers=[
            # DINOv2 never uses its mask token, and LayerDrop leaves out what it draws.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            # The others wait while the main process saves and verifies; half an hour is NCCL's own limit, or less.
            InitProcessGroupKwargs(timeout=timedelta(hours=6)),
        ],
        **options,
    )


def accelerator_for(given: Accelerator | None) -> Accelerator:
    """The accelerator to work with: the one that was given, or one on a CUDA GPU or the CPU.

    Raises:
        ProcessGroupError: It is of a kind that was never tried.
    """
    refuse_sharding()
    accelerator = given or new_accelerator()
    if accelerator.distributed_type not in _TRIED:
        raise ProcessGroupError(_NEVER_TRIED.format(accelerator.distributed_type.value))
    check_device(accelerator.device)
    return accelerator


def check_device(device: torch.device) -> None:
    """Refuses a kind of device that was never tried.

    Raises:
        ProcessGroupError: It is one.
    """
    if device.type not in _DEVICES:
        raise ProcessGroupError(_NEVER_TRIED.format(device.type))


def trains_alike(accelerator: Accelerator) -> Accelerator:
    """The accelerator, if a training in its processes sees the batches that one process would see.

    Raises:
        ProcessGroupError: Each process would take a whole batch, so the batch would grow with their number; or it
            divides the loss for parts of a batch that it would be told of.
    """
    parts = accelerator.gradient_accumulation_steps
    if parts != 1:
        raise ProcessGroupError(
            f"this accelerator divides every loss by its gradient_accumulation_steps={parts}, and here the schedule "
            "says in how many parts a batch is computed: leave that at 1, and set `accumulation` in train or heal."
        )
    if accelerator.num_processes > 1 and not accelerator.split_batches:
        raise ProcessGroupError(
            f"this accelerator gives each of {accelerator.num_processes} processes a whole batch, and a batch is for "
            "all together: leave `accelerator` out, or make it with Accelerator(dataloader_config="
            "DataLoaderConfiguration(split_batches=True), kwargs_handlers=[DistributedDataParallelKwargs("
            "find_unused_parameters=True)])."
        )
    return accelerator


def refuse_sharding() -> None:
    """Refuses an environment in which accelerate would take the model apart.

    Raises:
        ProcessGroupError: It is one.
    """
    for variable, name in _SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true", "yes"):
            raise ProcessGroupError(
                f"{name} ({variable}) splits a model, and blocks are removed from whole ones: choose plain data "
                "parallelism in `accelerate config`, or unset it. A model too large for one device can be scored with "
                "from_pretrained(device_map='auto')."
            )
