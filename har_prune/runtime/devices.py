"""Where networks compute, and in what arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import strtobool

from har_prune.errors import ProcessGroupError


def uses_gpu() -> bool:
    """Whether a run takes the CUDA GPU: there is one, and `accelerate launch --cpu` was not asked for."""
    return torch.cuda.is_available() and not strtobool(os.environ.get("ACCELERATE_USE_CPU", "false"))


def is_placed(model: PreTrainedModel) -> bool:
    """Whether accelerate placed the model (`device_map`, offload): its hooks hold on to the modules they are on."""
    return getattr(model, "hf_device_map", None) is not None


def refuse_placed(model: PreTrainedModel) -> None:
    """Refuses to train or prune a model that accelerate placed.

    Raises:
        ProcessGroupError: It is one.
    """
    if is_placed(model):
        raise ProcessGroupError(
            "this model is spread over devices or offloaded (device_map), and so it can be scored and evaluated where "
            "it is, but not trained or pruned: load it whole, with from_pretrained without device_map."
        )


def working_device(model: PreTrainedModel) -> torch.device:
    """Where a model computes: of a placed one the first accelerator of its map, else the CPU."""
    if not is_placed(model):
        return model.device
    places = [place for place in model.hf_device_map.values() if place not in ("cpu", "disk")]
    return torch.device(places[0] if places else "cpu")


@contextmanager
def exact_float32(wanted: bool) -> Iterator[None]:
    """Float32 is float32 inside: no TF32, which graphics cards from Ampere on take for convolutions.

    Its error of about 1e-3 is larger than the importance of some blocks, and folded batch normalisation would never
    pass for equal.
    """
    cudnn: Any = torch.backends.cudnn
    matmul: Any = torch.backends.cuda.matmul
    try:
        former = [(owner, "allow_tf32", owner.allow_tf32) for owner in (cudnn, matmul)]
        exact: Any = False
    except RuntimeError:  # somebody has set them by their new names, and torch (2.13) then refuses the old ones
        former = [(owner, "fp32_precision", owner.fp32_precision) for owner in (cudnn.conv, cudnn.rnn, matmul)]
        exact = "ieee"
    try:
        for owner, name, _ in former if wanted else ():
            setattr(owner, name, exact)
        yield
    finally:
        for owner, name, value in former if wanted else ():
            setattr(owner, name, value)


@contextmanager
def computing_in_place(*models: PreTrainedModel | None) -> Iterator[None]:
    """Eval mode and no key-value cache for placed models, which are used as they are (`is_placed`); both come back."""
    placed = [model for model in models if model is not None and is_placed(model)]
    before = [(model.training, getattr(model.config, "use_cache", None)) for model in placed]
    for model, (_, use_cache) in zip(placed, before, strict=True):
        model.eval()
        if use_cache:
            model.config.use_cache = False
    try:
        yield
    finally:
        for model, (was_training, use_cache) in zip(placed, before, strict=True):
            model.train(was_training)
            if use_cache:
                model.config.use_cache = use_cache
