"""What scoring and healing cost on large models: counted, at a given rate, checked against measured small ones.

    python benchmarks/scale.py

A sweep over L blocks evaluates L (L + 1) / 2 of them an example, whatever the model (`score_blocks` says the number).
So its time is that many times the work of a block, over the rate at which the machine computes it. The check: the same
prediction for networks that fit here, from the rate of their own plain forward, beside the measured sweep. Healing is
three times the forward of the smaller network, and one forward of the teacher. Several GPUs share the examples of a
batch; what they exchange is left out, which flatters 64 of them.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from measuring import alternating, write_result
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, ViTConfig, ViTForImageClassification

from har_prune import find_blocks, remove_blocks, score_blocks
from har_prune.evaluation.cost import measure_cost
from har_prune.scoring.config import ScoringConfig

GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Large:
    """A model on paper.

    Args:
        name: What it is.
        blocks: Transformer blocks.
        tokens: Of an example.
        width: Hidden size.
        inner: Feed-forward size.
        gated: Whether the feed-forward has three matrices.
        scored: Examples of a sweep.
        healed: Examples of a healing.
    """

    name: str
    blocks: int
    tokens: int
    width: int
    inner: int
    gated: bool
    scored: int
    healed: int

    @property
    def block_flops(self) -> int:
        """Of one block on one example; a multiplication and an addition are two."""
        projections = 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.inner
        return 2 * self.tokens * (projections + 2 * self.tokens * self.width)

    @property
    def evaluations(self) -> int:
        """Block evaluations of a sweep, an example."""
        return self.blocks * (self.blocks + 1) // 2

    @property
    def bytes_an_example(self) -> int:
        """Of hidden states at the end of a sweep, in bf16: the whole network's row and one of every candidate."""
        return 2 * (1 + self.blocks) * self.tokens * self.width


LARGE = (
    Large(
        "ViT-L/16: 10,000 images scored, 30 epochs of ImageNet healed",
        24,
        197,
        1024,
        4096,
        False,
        10_000,
        1_280_000 * 30,
    ),
    Large("a 7 B language model: 256 x 2,048 tokens scored, 1 B healed", 32, 2048, 4096, 11008, True, 256, 488_281),
)


def small() -> dict[str, tuple[PreTrainedModel, dict[str, torch.Tensor], Large]]:
    """Networks that fit here, their inputs, and the same on paper."""
    torch.manual_seed(0)
    vit = ViTForImageClassification(
        ViTConfig(image_size=112, hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=10)
    )
    llama = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=256, intermediate_size=688, num_hidden_layers=24, num_attention_heads=4, vocab_size=1000
        )
    )
    tokens = torch.randint(1000, (32, 64))
    return {
        "ViT-S/16, 112 x 112": (
            vit.eval(), {"pixel_values": torch.randn(32, 3, 112, 112)}, Large("", 12, 50, 384, 1536, False, 32, 0),
        ),
        "Llama, 24 layers, width 256, 64 tokens": (
            llama.eval(), {"input_ids": tokens}, Large("", 24, 64, 256, 688, True, 32, 0),
        ),
    }  # fmt: skip


@torch.no_grad()
def checked(
    name: str, model: PreTrainedModel, inputs: dict[str, torch.Tensor], paper: Large, rounds: int
) -> dict[str, Any]:
    """A row: the prediction, and what was measured."""
    device, count = model.device, len(next(iter(inputs.values())))
    one = {key: value[:1] for key, value in inputs.items()}
    whole, fewer = (measure_cost(each, one).macs for each in (model, remove_blocks(model, [1])))
    body = getattr(model, model.base_model_prefix)  # without the head, which a sweep of a language model leaves out
    chosen = list(range(len(find_blocks(model))))
    scores = score_blocks(model, [inputs], candidates=chosen)
    config = ScoringConfig.model_validate({"execution_plan": scores.execution_plan})  # not looked for again

    def sweep() -> Any:
        return score_blocks(model, [inputs], candidates=chosen, config=config)

    seconds = alternating({"forward": lambda: body(**inputs), "sweep": sweep}, rounds, device)
    rate = count * paper.blocks * paper.block_flops / seconds["forward"]
    predicted = count * paper.evaluations * paper.block_flops / rate
    return {
        "network": name,
        "a block counted, MFLOP": round(2 * (whole - fewer) / 1e6, 2),
        "on paper": round(paper.block_flops / 1e6, 2),
        "evaluations counted": scores.block_evaluations // count,
        "on paper ": paper.evaluations,
        "GFLOP/s of a forward": round(rate / 1e9, 1),
        "sweep predicted, s": round(predicted, 2),
        "measured, s": round(seconds["sweep"], 2),
        "measured / predicted": round(seconds["sweep"] / predicted, 2),
    }


def on_paper(model: Large, gpus: int, tflops: float) -> dict[str, Any]:
    """A row: hours of a sweep and of a healing."""
    rate = tflops * 1e12 * gpus
    forward = model.blocks * model.block_flops
    healing = model.healed * (3 * forward / 2 + forward) / rate  # half of the blocks, and the teacher
    return {
        "model": model.name,
        "GPUs": gpus,
        "a sweep, minutes": round(model.scored * model.evaluations * model.block_flops / rate / 60, 2),
        "removing and running again, minutes": round(
            model.scored * model.blocks * (model.blocks - 1) * model.block_flops / rate / 60, 2
        ),
        "one healing at half depth, distilled, hours": round(healing / 3600, 2),
        "hidden states of a sweep, MiB an example": round(model.bytes_an_example / 2**20),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=300.0, help="of a GPU, in bf16, on such a model")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    rows = [checked(name, *made, given.rounds) for name, made in small().items()]
    write_result(
        "scale_check", "The prediction of a sweep against measured ones", {"threads": torch.get_num_threads()}, rows
    )
    facts = {"TFLOP/s a GPU, given and not measured": given.tflops, "check of the prediction": "scale_check"}
    table = [on_paper(model, gpus, given.tflops) for model in LARGE for gpus in GPUS]
    write_result("scale", "What a sweep and a healing cost on large models, on paper", facts, table)


if __name__ == "__main__":
    main()
