"""Multiply-accumulates of one example."""

import math
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel

from har_prune.errors import ShapeError
from har_prune.runtime.batches import inputs_for

aten = torch.ops.aten
# The paper counts convolutions and dense layers; products of two activations (attention) are left out.
_PAPER_OPERATIONS = {aten.convolution, aten._convolution, aten.cudnn_convolution, aten.mm, aten.addmm}


def _attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _grouped_flops(rows: Any, experts: Any, *args: Any, **kwargs: Any) -> int:
    """Of a mixture of experts: every row [M, K] by the matrix of its expert, of [E, K, N]."""
    return 2 * math.prod(rows) * experts[-1]


# torch 2.13 does not know its own CPU attention kernel, nor that of experts, and counts them as nothing.
_MISSING = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    aten._grouped_mm: _grouped_flops,
}


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
    return macs_of_modules(model, example_inputs, convention).get("", 0)


def macs_by_module(
    model: PreTrainedModel, example_inputs: dict[str, Tensor], opened: Collection[str] = ()
) -> dict[str, int]:
    """Counts the multiply-accumulates of each part of a network, for one example; together they are `count_macs`.

    Args:
        model: The network; runs once, in eval mode.
        example_inputs: As for `count_macs`.
        opened: Modules shown by themselves, e.g. `block.name` of all blocks; what holds one of them is shown as its
            parts, anything else as one.

    Returns:
        MACs by dotted module path, in the order of the network; "(elsewhere)" for what no module of its own does.
    """
    counts = macs_of_modules(model, example_inputs)
    parts: dict[str, int] = {}

    def add(name: str, module: nn.Module) -> None:
        inside = f"{name}." if name else ""
        if not name or any(path.startswith(inside) for path in opened):
            for child, part in module.named_children():
                add(inside + child, part)
        else:
            parts[name] = counts.get(name, 0)

    add("", model)
    elsewhere = counts.get("", 0) - sum(parts.values())
    return {**parts, **({"(elsewhere)": elsewhere} if elsewhere else {})}


@torch.no_grad()
def macs_of_modules(
    model: PreTrainedModel, example_inputs: dict[str, Tensor], convention: Literal["all", "paper"] = "all"
) -> dict[str, int]:
    """MACs of one example by dotted path of every module, what it holds included; "" is the whole network.

    Args:
        model: The network; runs once, in eval mode.
        example_inputs: As for `count_macs`.
        convention: Likewise.

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
            model(**inputs_for(model, example_inputs))
    finally:
        model.train(was_training)
        torch.backends.mha.set_fastpath_enabled(fast_path)
    batch, root = sizes.pop(), type(model).__name__
    return {
        "" if name == "Global" else name.removeprefix(f"{root}."): sum(
            flops for operation, flops in operations.items() if convention == "all" or operation in _PAPER_OPERATIONS
        )
        // 2
        // batch
        for name, operations in counter.get_flop_counts().items()
        if name != root
    }
