"""How fast, how exact and how large is scoring: `make bench`.

    python benchmarks/scoring.py --checkpoint checkpoints/resnet56 --data ../shared/data/cifar10

For ResNet-56 (24 candidates, CIFAR-10 images), the HAR Transformer (12 blocks, width 64), a ViT-S/16 and a Llama with
random weights: our sweep against removing each candidate and running again, in one process, in turn, medians. The peer
runs channels last and at its best batch size; "running alone" also grants it the removals for free. Work is counted in
block evaluations and in multiply-accumulates.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from measuring import RESULTS, alternating, matmul_gflops, peak_bytes, write_result
from scipy.stats import kendalltau
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, ViTConfig, ViTForImageClassification

from har_prune import (
    HarTransformerConfig,
    HarTransformerForSequenceClassification,
    find_blocks,
    remove_blocks,
    score_blocks,
)
from har_prune.checkpoints.load import load_model
from har_prune.data.load import LabelledData, load_data
from har_prune.models.cifar_resnet import CifarResNetForImageClassification
from har_prune.pruning.config import PruneSettings
from har_prune.pruning.plan import candidates
from har_prune.recipe.accelerator import computes_in_bf16, make_accelerator
from har_prune.runtime.environment import environment
from har_prune.runtime.feature_hook import FeatureHook
from har_prune.scoring.cka import CkaMoments
from har_prune.scoring.config import ExecutionPlan, ScoringConfig

Batch = Mapping[str, Tensor]
BATCH_SIZES = (32, 64, 128, 256)


def swept(model: PreTrainedModel, batches: Iterable[Batch], chosen: list[int], config: ScoringConfig) -> list[float]:
    """Importance of each candidate our way."""
    return [score.importance for score in score_blocks(model, batches, candidates=chosen, config=config)]


def removed_and_run(
    model: PreTrainedModel, inputs: Batch, chosen: list[int], batch_size: int, *, removed: list[PreTrainedModel] | None
) -> list[float]:
    """Importance of each candidate the plain way; `removed` are networks made before, None = make them."""
    example = {key: value[:1] for key, value in inputs.items()}
    few = split(inputs, batch_size)
    reference = features(model, few)
    found = []
    for place, index in enumerate(chosen):
        smaller = remove_blocks(model, [index], example_inputs=example) if removed is None else removed[place]
        moments = CkaMoments()
        moments.update(reference, features(smaller.to(memory_format=torch.channels_last), few))
        found.append(1 - moments.similarity())
    return found


def features(model: PreTrainedModel, batches: list[dict[str, Tensor]]) -> Tensor:
    hook = FeatureHook(model)
    return torch.cat([hook.read(batch)[0] for batch in batches])


def split(inputs: Batch, size: int) -> list[dict[str, Tensor]]:
    count = len(next(iter(inputs.values())))
    return [{key: value[n : n + size] for key, value in inputs.items()} for n in range(0, count, size)]


def sweep_macs(model: PreTrainedModel, inputs: Batch, chosen: list[int]) -> int:
    """Multiply-accumulates of one example's sweep, counted by torch while it runs; without what prepares it."""
    two = {key: value[:2].contiguous() for key, value in inputs.items()}
    config = ScoringConfig(execution_plan=ExecutionPlan(micro_batch=2))
    flops = []
    for batches in ([two], [two, two]):
        with FlopCounterMode(display=False) as counter:
            swept(model, batches, chosen, config)
        flops.append(counter.get_total_flops())
    return (flops[1] - flops[0]) // 4


def against_plain(name: str, model: PreTrainedModel, inputs: Batch, chosen: list[int], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    device, count = model.device, len(next(iter(inputs.values())))
    plain = model.to(memory_format=torch.channels_last)
    smaller = [remove_blocks(plain, [index]).to(memory_format=torch.channels_last) for index in chosen]
    batches = split(inputs, 128)
    first = score_blocks(model, batches, candidates=chosen)
    assert first.execution_plan is not None

    def ours(**fields: Any) -> list[float]:
        config = ScoringConfig.model_validate({"execution_plan": first.execution_plan, **fields})
        return swept(model, batches, chosen, config)

    few = {key: value[:256] for key, value in inputs.items()}
    by_size = alternating(
        {str(n): (lambda n=n: removed_and_run(plain, few, chosen, n, removed=smaller)) for n in BATCH_SIZES}, 1, device
    )
    best = int(min(by_size, key=lambda size: by_size[size]))
    # A race that drops next to nothing shows what its looks cost; it is paid by the block, for what it has dropped.
    undecided = {"confidence": 1 - 1e-12, "tie_margin": 0, "first": 64}
    racing = ScoringConfig.model_validate({"execution_plan": first.execution_plan, "race": undecided})
    raced = score_blocks(model, batches, candidates=chosen, config=racing).block_evaluations / first.block_evaluations
    seconds = alternating(
        {
            "ours": ours,
            "interval": lambda: ours(interval=0.95),
            "race": lambda: ours(race=undecided),
            **({"bf16": lambda: ours(precision="bf16")} if computes_in_bf16() else {}),
            "plain": lambda: removed_and_run(plain, inputs, chosen, best, removed=None),
            "without": lambda: removed_and_run(plain, inputs, chosen, best, removed=smaller),
        },
        rounds,
        device,
    )
    exact = ours()
    rough = ours(precision="bf16") if "bf16" in seconds else None
    in_float64 = double_error(model, {key: value[:32] for key, value in inputs.items()}, chosen)
    rate = 2 * sweep_macs(model, inputs, chosen) * count / seconds["ours"] / 1e9
    depth = len(find_blocks(model))
    return {
        "network": name,
        "examples": count,
        "candidates": len(chosen),
        "ours s": round(seconds["ours"], 2),
        "remove and run s": round(seconds["plain"], 2),
        "times faster": round(seconds["plain"] / seconds["ours"], 2),
        "times faster than running alone": round(seconds["without"] / seconds["ours"], 2),
        "block evaluations an example": first.block_evaluations // count,
        "remove and run, block evaluations": depth + len(chosen) * (depth - 1),
        "with intervals, times": round(seconds["interval"] / seconds["ours"], 2),
        "a race, times by the block": round(seconds["race"] / seconds["ours"] / raced, 2),
        "GFLOP/s": round(rate),
        "execution_plan": ", ".join(f"{key} {value}" for key, value in first.execution_plan.model_dump().items()),
        "its batch size": best,
        "largest difference, float64": f"{in_float64:.0e}",
        "the same, fp32": f"{worst(exact, removed_and_run(plain, inputs, chosen, best, removed=smaller)):.0e}",
        "bf16 s": "-" if rough is None else round(seconds["bf16"], 2),
        "bf16 largest difference": "-" if rough is None else f"{worst(exact, rough):.1e}",
        "bf16 Kendall tau": "-" if rough is None else round(float(kendalltau(exact, rough).statistic), 3),
    }


def worst(some: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(some, others, strict=True))


def double_error(model: PreTrainedModel, inputs: Batch, chosen: list[int]) -> float:
    """Largest difference to the plain way where rounding cannot hide anything."""
    twin = type(model)(model.config).eval().double().to(model.device)
    twin.load_state_dict(model.state_dict())
    few = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = swept(twin, [few], chosen, ScoringConfig())
    return worst(found, removed_and_run(twin, few, chosen, 32, removed=None))


def images(loaded: LabelledData, rows: int) -> Iterator[dict[str, Tensor]]:
    """Batches of 64 training images, in order."""
    training = np.flatnonzero(loaded.splits == "train")[:rows]
    for start in range(0, len(training), 64):
        yield {"pixel_values": torch.from_numpy(loaded.values[training[start : start + 64]]).float() / 255}


def peak_memory(checkpoint: str, data: str, rows: int) -> int:
    """Bytes at the peak of a process that scores some images and does nothing else."""
    script = [sys.executable, __file__, "--checkpoint", checkpoint, "--data", data, "--memory-of", str(rows)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_peak_memory(model: PreTrainedModel, data: str, rows: int, chosen: list[int]) -> None:
    loaded = load_data(data)
    config = ScoringConfig(execution_plan=ExecutionPlan(micro_batch=64, channels_last=True), precision="bf16")
    device = make_accelerator().device
    # What reading the data took is not scoring's: the peak is counted from here.
    print(peak_bytes(lambda: swept(model.to(device), images(loaded, rows), chosen, config)))


def cases(model: PreTrainedModel, data: str, chosen: list[int]) -> Iterable[tuple[str, Callable[[], tuple]]]:
    def resnet() -> tuple:
        batches = list(images(load_data(data), 1024))
        pixels = torch.cat([batch["pixel_values"] for batch in batches]).contiguous(memory_format=torch.channels_last)
        return model, {"pixel_values": pixels}, chosen

    def transformer() -> tuple:
        torch.manual_seed(0)
        config = HarTransformerConfig(
            num_channels=3, window_size=160, num_hidden_layers=12, hidden_size=64, intermediate_size=128, num_labels=12
        )
        network = HarTransformerForSequenceClassification(config).eval()
        return network, {"input_values": torch.randn(1024, 160, 3)}, list(range(12))

    def vit() -> tuple:
        torch.manual_seed(0)
        network = ViTForImageClassification(
            ViTConfig(image_size=112, hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=10)
        )
        return network.eval(), {"pixel_values": torch.randn(64, 3, 112, 112)}, list(range(12))

    def llama() -> tuple:
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=256, intermediate_size=688, num_hidden_layers=24, num_attention_heads=4, num_key_value_heads=4
        )
        tokens = torch.randint(config.vocab_size, (64, 16), generator=torch.Generator().manual_seed(0))
        return LlamaForCausalLM(config).eval(), {"input_ids": tokens}, list(range(24))

    return [
        ("ResNet-56", resnet),
        ("HAR Transformer, 12 blocks, width 64", transformer),
        ("ViT-S/16, 12 layers, 112 x 112, random", vit),
        ("Llama, 24 layers, width 256, 16 tokens, random", llama),
    ]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="checkpoints/resnet56")
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--network", default="", help="only those whose name has this; other rows of the result stay")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead; Linux only")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = load_model(CifarResNetForImageClassification, arguments.checkpoint).eval()
    chosen = candidates(find_blocks(model), PruneSettings(target={"blocks": 1}, guards="paper"), set())
    if arguments.memory_of is not None:
        print_peak_memory(model, arguments.data, arguments.memory_of, chosen)
        return
    if arguments.memory:
        peaks = {rows: peak_memory(arguments.checkpoint, arguments.data, rows) for rows in (1024, 50_000)}
        table = [{"images": rows, "peak bytes": peak} for rows, peak in peaks.items()]
        ratio = f"{peaks[50_000] / peaks[1024]:.3f}"
        write_result("scoring_memory", "Peak memory of a sweep over ResNet-56", {"50,000 over 1,024": ratio}, table)
        return
    device = make_accelerator().device
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads",
        "matrix product, fp32 GFLOP/s": round(matmul_gflops(device)),
    }
    if computes_in_bf16():  # emulated, it takes minutes and says nothing
        facts["matrix product, bf16 GFLOP/s"] = round(matmul_gflops(device, torch.bfloat16))
    result = "scoring_gpu" if device.type == "cuda" else "scoring"
    known = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))["table"] if arguments.network else []
    for name, make in cases(model, arguments.data, chosen):
        if arguments.network not in name:
            continue
        network, inputs, its_candidates = make()
        network = network.to(device)
        inputs = {key: value.to(device) for key, value in inputs.items()}
        row = against_plain(name, network, inputs, its_candidates, arguments.rounds)
        row["of the matrix product %"] = round(100 * row["GFLOP/s"] / facts["matrix product, fp32 GFLOP/s"])
        row["commit"] = environment()["commit"]
        known = [*(other for other in known if other["network"] != name), row]
        facts["matrix product afterwards, fp32 GFLOP/s"] = round(matmul_gflops(device))
        write_result(result, "Scoring: speed and exactness", facts, known)  # kept, if it stops here


if __name__ == "__main__":
    main()
