"""Multiply-accumulates of one example."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel

from har_prune.errors import ShapeError
from har_prune.runtime.batches import to_device

aten = torch.ops.aten
# The paper counts convolutions and dense layers; products of two activations (attention) are left out.
_PAPER_OPERATIONS = {aten.convolution, aten._convolution, aten.cudnn_convolution, aten.mm, aten.addmm}


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch 2.13 does not know its own CPU attention kernel and counts it as nothing.
_MISSING = {aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


@torch.no_grad()
def count_macs(
    model: PreTrainedModel, example_inputs: dict[str, Tensor], convention: Literal["all", "paper"] = "all"
) -> int:
    """Counts the multiply-accumulates (MACs) of one forward, for one example.

    Args:
        model: The network; runs once, in eval mode.
        example_inputs: Model inputs, [B, ...] each. The count is divided by B.
        convention: "all": convolutions, dense layers and attention products. "paper": convolutions and dense layers
            only, as in arXiv:2405.17081, whose ResNet-56 has 125,747,840. Biases, normalisation, activations and
            pooling count in neither.

    Raises:
        ShapeError: The inputs have no common batch size.
    """
    sizes = {len(value) for value in example_inputs.values()}
    if len(sizes) != 1:
        raise ShapeError(f"example inputs have batch sizes {sorted(sizes)}; expected one batch size for all of them.")
    was_training, fast_path = model.training, torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # torch's fused encoder layer counts as nothing
    try:
        with FlopCounterMode(display=False, custom_mapping=_MISSING) as counter:
            model(**to_device(example_inputs, model.device))
    finally:
        model.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    operations = counter.get_flop_counts().get("Global", {})
    flops = sum(n for op, n in operations.items() if convention == "all" or op in _PAPER_OPERATIONS)
    return flops // 2 // sizes.pop()
