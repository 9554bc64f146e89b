"""Peak memory of removing a block from a random Llama of 1 GiB, in processes of their own.

python benchmarks/surgery_memory.py
"""

import argparse
import copy
import subprocess
import sys
from collections.abc import Callable

import torch
from measuring import peak_bytes, resident_bytes, write_result
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from har_prune import remove_blocks


def llama(dtype: torch.dtype) -> LlamaForCausalLM:
    """A random Llama of a little more than 1 GiB."""
    layers = 25 if dtype == torch.float32 else 50
    config = LlamaConfig(
        hidden_size=1024, intermediate_size=2048, num_attention_heads=16, num_hidden_layers=layers, vocab_size=4096
    )
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(config).eval()
    torch.set_default_dtype(torch.float32)
    return model


def by_deep_copy(model: PreTrainedModel) -> PreTrainedModel:
    """What is usually done: copy, delete, renumber, correct the config."""
    smaller = copy.deepcopy(model)
    smaller.model.layers = nn.ModuleList(layer for i, layer in enumerate(smaller.model.layers) if i != 3)
    for index, layer in enumerate(smaller.model.layers):
        layer.self_attn.layer_idx = index
    smaller.config.num_hidden_layers -= 1
    return smaller


WAYS: dict[str, Callable[[PreTrainedModel], PreTrainedModel]] = {
    "remove_blocks(copy=False)": lambda model: remove_blocks(model, [3], copy=False),
    "remove_blocks": lambda model: remove_blocks(model, [3]),
    "deepcopy and delete": by_deep_copy,
}


def measure(way: str, dtype: torch.dtype) -> None:
    """Prints bytes of the model, and by how much memory peaked above what was in use before."""
    torch.set_num_threads(1)
    remove_blocks(tiny_llama(), [1])  # libraries load what they need
    model = llama(dtype)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    before = resident_bytes()
    peak = peak_bytes(lambda: WAYS[way](model))
    print(size, peak - before)


def tiny_llama() -> LlamaForCausalLM:
    """A tiny one."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).eval()


def main() -> None:
    """Measures every way in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    if arguments.way:
        measure(arguments.way, getattr(torch, arguments.dtype))
        return
    table = []
    for dtype in ("float32", "bfloat16"):
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--dtype", dtype]
            printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            size, above = map(int, printed[-2:])
            row = {"way": way, "dtype": dtype, "model bytes": size, "peak above it, bytes": above}
            table.append({**row, "peak above it, share of the model": above / size})
    write_result("surgery_memory", "Peak memory of removing one block", {}, table)


if __name__ == "__main__":
    main()
