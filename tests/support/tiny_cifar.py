"""60 images in the format of uoft-cs/cifar10, and a checkpoint for them."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from families import cifar_resnet
from transformers import ViTImageProcessor

from har_prune import save_pruned


def make(folder: Path) -> tuple[Path, Path]:
    """Writes both into a folder; returns where the images and where the checkpoint are."""
    data = folder / "data"
    data.mkdir()
    features = Features({"img": Image(), "label": ClassLabel(names=["cat", "dog", "ship"])})
    generator = np.random.default_rng(0)
    for split, count in (("train", 45), ("test", 15)):
        rows = {
            "img": [generator.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(count)],
            "label": [i % 3 for i in range(count)],
        }
        Dataset.from_dict(rows, features=features).to_parquet(data / f"{split}-00000-of-00001.parquet")
    model = cifar_resnet(depths=[9, 9, 9], image_size=32, id2label={0: "cat", 1: "dog", 2: "ship"}, num_labels=3)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False)
    return data, save_pruned(model, folder / "model", processor=processor)
