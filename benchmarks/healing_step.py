"""How fast healing is: examples a second of `train_model` against the same training written plainly.

    python benchmarks/healing_step.py images --threads 2
    python benchmarks/healing_step.py windows --threads 2

Images: ResNet-56 with 12 of its 27 blocks, distilled, in bf16. Windows: the HAR Transformer of 8 blocks on windows of
one second at 50 Hz, in fp32. Network, data, augmentations, loss and optimizer are the same. Plainly means the loop of
har_prune 0.2: the teacher is the network as it was loaded, augmentation and normalisation happen in the loader, the
optimizer is not fused, dropout is torch's. Both take turns in one process; figures are medians.
"""

import argparse
import copy
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from measuring import alternating, write_result
from torch import Tensor, nn
from torch.utils.data import DataLoader

from har_prune import (
    DistillConfig,
    HarFeatureExtractor,
    HarTransformerConfig,
    HarTransformerForSequenceClassification,
    Teacher,
    TrainConfig,
    remove_blocks,
    train_model,
)
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.batches import make_loader, preprocess_for
from har_prune.data.config import DataConfig
from har_prune.data.load import LabelledData, load_configured
from har_prune.data.transforms import flip, jitter, rotation, scaling, time_warp
from har_prune.models.har_transformer.modeling_har_transformer import HarTransformerDropout
from har_prune.recipe.accelerator import make_accelerator
from har_prune.recipe.original import load_original

STEPS, BATCH = 60, 128  # of images
WINDOWS, WINDOW_EPOCHS = 32 * 64, 5
GONE = [1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 19, 20, 21, 22, 23]  # 15 of ResNet-56: 12 are left


def plain_crop(images: Tensor, padding: int = 4) -> Tensor:
    """The crop of 0.2: gathers channel by channel."""
    batch, channels, height, width = images.shape
    padded = nn.functional.pad(images.float(), [padding] * 4, mode="reflect").to(images.dtype)
    top, left = torch.randint(2 * padding + 1, (2, batch, 1))
    rows = (top + torch.arange(height))[:, None, :, None].expand(-1, channels, -1, padded.shape[3])
    columns = (left + torch.arange(width))[:, None, None, :].expand(-1, channels, height, -1)
    return padded.gather(2, rows).gather(3, columns)


class PlainImages:
    """Augmentation, normalisation and labels of a batch, in the loader."""

    def __init__(self, data: LabelledData, preprocess: Any, augmentations: list[Callable]):
        self.data, self.preprocess, self.augmentations = data, preprocess, augmentations

    def __call__(self, rows: list[int]) -> dict[str, Tensor]:
        values = self.data.raw(np.asarray(rows))
        for augment in self.augmentations:
            values = augment(values)
        return {**self.preprocess(values), "labels": torch.from_numpy(self.data.labels[rows])}


class PlainWindows(PlainImages):
    """The same for windows, through the feature extractor window by window."""

    def __call__(self, rows: list[int]) -> dict[str, Tensor]:
        values = self.data.raw(np.asarray(rows))
        for augment in self.augmentations:
            values = augment(values)
        features = self.preprocess(values.numpy(), return_tensors="pt")
        return {"input_values": features["input_values"], "labels": torch.from_numpy(self.data.labels[rows])}


def plain_training(
    model: Any,
    loader: DataLoader,
    teacher: Any,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    epochs: int = 1,
) -> None:
    """The loop of 0.2."""
    model.train().to(memory_format=torch.channels_last)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in chain.from_iterable(repeat(loader, epochs)):
        labels = batch.pop("labels")
        with accelerator.autocast():
            logits = wrapped(**batch).logits.float()
            loss = nn.functional.cross_entropy(logits, labels)
            if teacher is not None:
                with torch.no_grad():
                    wanted = (teacher(**batch).logits.float() / 4).log_softmax(dim=1)
                given = (logits / 4).log_softmax(dim=1)
                loss = 0.1 * loss + 14.4 * nn.functional.kl_div(given, wanted, reduction="batchmean", log_target=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    model.__dict__.pop("forward", None)
    accelerator.free_memory()


def images(checkpoint: str, path: str, precision: str, threads: int) -> tuple[Callable, Callable]:
    """A pass over 12 batches of CIFAR-10: plainly, and by train_model."""
    data = load_configured(DataConfig(name_or_path=path, protocol="official"))
    model, processor = load_original(Checkpoint(checkpoint), data)
    small, rows = remove_blocks(model, GONE), np.arange(STEPS * BATCH)
    preprocess, accelerator = preprocess_for(data, processor, checkpoint), make_accelerator(precision, threads)
    collate = PlainImages(data, preprocess, [plain_crop, flip])
    plain = DataLoader(rows.tolist(), batch_size=BATCH, shuffle=True, collate_fn=collate)
    ours = make_loader(data, rows, preprocess, BATCH, augment=["crop", "flip"])
    config = TrainConfig(epochs=1, optimizer="sgd", learning_rate=0.01, warmup=0, schedule="constant", max_grad_norm=5)
    teacher = Teacher(model, DistillConfig(weight=0.9, temperature=4.0))

    def plainly() -> None:
        own = copy.deepcopy(small)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01)
        plain_training(own, plain, model.eval(), optimizer, accelerator)

    return plainly, lambda: train_model(
        copy.deepcopy(small), ours, None, config, accelerator=accelerator, teacher=teacher
    )


def windows(threads: int) -> tuple[Callable, Callable]:
    """A pass over windows of one second: plainly, and by train_model."""
    generator = np.random.default_rng(0)
    count = WINDOWS
    labels = generator.integers(0, 6, count)
    names = [f"c{number}" for number in range(6)]
    values = generator.normal(size=(count, 50, 6)).astype(np.float32)
    data = LabelledData("sensor", values, labels, names, labels.astype(str), sensor={"sampling_rate_hz": 50.0})
    model = HarTransformerForSequenceClassification(
        HarTransformerConfig(num_channels=6, window_size=50, num_hidden_layers=8, num_labels=6)
    )
    extractor = HarFeatureExtractor(num_channels=6, window_size=50, sampling_rate_hz=50.0)
    augmentations, accelerator = [jitter, scaling, rotation, time_warp], make_accelerator("fp32", threads)
    plain = DataLoader(
        range(count), batch_size=64, shuffle=True, collate_fn=PlainWindows(data, extractor, augmentations)
    )
    augment = [augmentation.__name__ for augmentation in augmentations]
    ours = make_loader(data, range(count), preprocess_for(data, extractor, "x"), 64, augment=augment)
    config = TrainConfig(epochs=WINDOW_EPOCHS, warmup=0, schedule="constant", max_grad_norm=5)

    def plainly() -> None:
        own = copy.deepcopy(model)
        for name, module in list(own.named_modules()):
            if isinstance(module, HarTransformerDropout):
                own.set_submodule(name, nn.Dropout(module.p))
        plain_training(own, plain, None, torch.optim.AdamW(own.parameters(), lr=1e-3), accelerator, WINDOW_EPOCHS)

    return plainly, lambda: train_model(copy.deepcopy(model), ours, None, config, accelerator=accelerator)


def main() -> None:
    """Measures both and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", choices=["images", "windows"])
    parser.add_argument("--checkpoint", default="checkpoints/resnet56")
    parser.add_argument("--images", default="../shared/data/cifar10")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    if given.training == "images":
        (plain, ours), examples = images(given.checkpoint, given.images, "bf16", given.threads), STEPS * BATCH
    else:
        (plain, ours), examples = windows(given.threads), WINDOWS * WINDOW_EPOCHS
    seconds = alternating({"plain": plain, "har_prune": ours}, given.rounds, torch.device("cpu"))
    row = {
        "training": given.training,
        "plainly, examples/s": round(examples / seconds["plain"]),
        "har_prune, examples/s": round(examples / seconds["har_prune"]),
        "ratio": seconds["plain"] / seconds["har_prune"],
    }
    facts = {"threads": given.threads, "rounds": given.rounds, "what counts": "medians of alternating passes"}
    write_result(f"healing_step_{given.training}", "Healing against the same training written plainly", facts, [row])


if __name__ == "__main__":
    main()
