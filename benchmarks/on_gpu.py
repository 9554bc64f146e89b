"""What only a GPU can show: exactness of scores in TF32 and bf16, healing in its ways, a probed model.

    python benchmarks/on_gpu.py

ResNet-56 on CIFAR-10. Scores are compared with those of a float64 twin that removes each block and runs again. Healing
is that of benchmarks/healing_step.py: 12 of 27 blocks, distilled, in bf16.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from healing_step import GONE
from measuring import alternating, write_result
from scoring import images as image_batches
from scoring import removed_and_run, swept, worst
from torch import Tensor
from transformers import ElectraConfig, ElectraForSequenceClassification

from har_prune import DistillConfig, Teacher, TrainConfig, find_blocks, prune, remove_blocks, train_model
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.batches import make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import load_configured
from har_prune.pruning.config import PruneConfig, PruneSettings
from har_prune.pruning.plan import candidates
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.original import load_original
from har_prune.scoring.config import ScoringConfig

STEPS = 60


@torch.no_grad()
def exactness(model: Any, pixels: Tensor) -> dict[str, Any]:
    """Largest difference of an importance from float64, as scored and as somebody would do it in TF32."""
    chosen = candidates(find_blocks(model), PruneSettings(target={"blocks": 1}, guards="paper"), set())
    twin = copy.deepcopy(model).double()
    true = removed_and_run(twin, {"pixel_values": pixels.double()}, chosen, 128, removed=None)
    batches = [{"pixel_values": part} for part in pixels.split(128)]
    found = {"scored, fp32": swept(model, batches, chosen, ScoringConfig())}
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    found["scored, fp32, in a process that allows TF32"] = swept(model, batches, chosen, ScoringConfig())
    found["removed and run in TF32"] = removed_and_run(model, {"pixel_values": pixels}, chosen, 128, removed=None)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    found["scored, bf16"] = swept(model, batches, chosen, ScoringConfig(precision="bf16"))
    return {name: f"{worst(values, true):.1e}" for name, values in found.items()} | {"smallest": f"{min(true):.1e}"}


def healing(model: Any, data: Any, processor: Any, batch_size: int, rounds: int) -> dict[str, float]:
    """Images a second of distilled healing, by loader workers."""
    small, rows = remove_blocks(model, GONE), np.arange(STEPS * batch_size)
    accelerator, preprocess = make_accelerator("auto"), preprocess_for(data, processor, "resnet56")
    config = TrainConfig(epochs=1, optimizer="sgd", learning_rate=0.01, warmup=0, schedule="constant", max_grad_norm=5)

    def training(workers: int | None, graphs: bool = False) -> Callable[[], Any]:
        loader = make_loader(data, rows, preprocess, batch_size, augment=["crop", "flip"])
        if workers is not None:  # a DataLoader lets nobody change persistent_workers
            loader.__dict__.update(num_workers=workers, persistent_workers=workers > 0)
        return lambda: train_model(
            copy.deepcopy(small),
            loader,
            None,
            config.model_copy(update={"cuda_graphs": graphs}),
            accelerator=accelerator,
            teacher=Teacher(model, DistillConfig()),
        )

    ways = {
        "without workers": training(0),
        "as make_loader has them": training(None),
        "cuda_graphs": training(None, graphs=True),
    }
    seconds = alternating(ways, rounds, accelerator.device)
    return {name: round(len(rows) / value) for name, value in seconds.items()}


def probed(device: torch.device) -> str:
    """Prunes a model of no registered family where it computes."""
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=100,
        embedding_size=32,
        hidden_size=32,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=64,
    )
    model = ElectraForSequenceClassification(config).to(device).eval()
    batches = [{"input_ids": torch.randint(100, (16, 12)), "labels": torch.randint(2, (16,))} for _ in range(4)]
    result = prune(model, None, batches, batches, PruneConfig(target={"blocks": 3}, heal=None))
    return f"{len(find_blocks(model))} -> {len(find_blocks(result.model))} blocks"


def main() -> None:
    """Measures all and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="checkpoints/resnet56")
    parser.add_argument("--data", default="../shared/data/cifar10")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    data = load_configured(DataConfig(name_or_path=given.data, protocol="official"))
    model, processor = load_original(Checkpoint(given.checkpoint), data)
    accelerator = make_accelerator("auto")  # one process has one precision
    device = accelerator.device
    model = model.to(device).eval()
    pixels = torch.cat([batch["pixel_values"] for batch in image_batches(data, given.images)]).to(device)
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "precision auto": accelerator.mixed_precision,
        "a probed model (ELECTRA)": probed(device),
        **{f"largest difference from float64, {name}": value for name, value in exactness(model, pixels).items()},
    }
    table = [{"batch": n, **healing(model, data, processor, n, given.rounds)} for n in (128, 256)]
    write_result("on_gpu", "On a GPU: exactness, and images a second of healing", facts, table)


if __name__ == "__main__":
    main()
