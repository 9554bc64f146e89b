"""Where networks compute, and in what arithmetic."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel
from transformers.utils import strtobool


def uses_gpu() -> bool:
    """Whether a run takes the CUDA GPU: there is one, and `accelerate launch --cpu` was not asked for."""
    return torch.cuda.is_available() and not strtobool(os.environ.get("ACCELERATE_USE_CPU", "false"))


def is_placed(model: PreTrainedModel) -> bool:
    """Whether accelerate placed the model (`device_map`, offload): its hooks hold on to the modules they are on."""
    return getattr(model, "hf_device_map", None) is not None


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
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    former = cudnn.allow_tf32, matmul.allow_tf32
    if wanted:
        cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = former


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
