"""Keras ResNets for CIFAR-10 -> a folder that `AutoModelForImageClassification` loads.

    python -m har_prune.checkpoints.convert_keras --h5 ResNet56.h5 --json ResNet56.json --output DIR

Reads what the ResNet v1 example of Keras 2 saves: weights (.h5) and architecture (.json). The architecture is taken
from the JSON by walking its graph, so the depth of each stage is free.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from torch import Tensor
from transformers import ViTImageProcessor

from har_prune.checkpoints.save import save_pruned
from har_prune.errors import CheckpointError, HarPruneError
from har_prune.models.cifar_resnet import CifarResNetConfig, CifarResNetForImageClassification

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Mean over the 50,000 training images, [32, 32, 3] float32 in [0, 1]: the example subtracts it from every image.
CIFAR10_PIXEL_MEAN = Path(__file__).with_name("cifar10_pixel_mean.npy")


@dataclass(frozen=True)
class _Block:
    """Names of the layers of one residual block; `projection` None where the shortcut is the identity."""

    conv1: str
    norm1: str
    conv2: str
    norm2: str
    projection: str | None


class _Graph:
    """The layers of a Keras functional model and what feeds each."""

    def __init__(self, architecture: dict[str, Any], where: Path):
        try:
            layers = architecture["config"]["layers"]
            self.layers = {layer["name"]: layer for layer in layers}
            self.inputs = {
                layer["name"]: [node[0] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
                for layer in layers
            }
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{where}: not the JSON of a Keras functional model (no {error}).") from error
        self.where = where

    def kind(self, name: str) -> str:
        return self.layers[name]["class_name"]

    def first(self, kind: str) -> str:
        """The first layer of a kind."""
        found = next((name for name in self.layers if self.kind(name) == kind), None)
        if found is None:
            raise CheckpointError(f"{self.where}: there is no {kind} layer: not a ResNet v1.")
        return found

    def back(self, name: str, kind: str) -> str:
        """The layer of a kind that feeds a layer, activations skipped."""
        (feeding,) = self.inputs[name]
        while self.kind(feeding) == "Activation" and kind != "Activation":
            (feeding,) = self.inputs[feeding]
        if self.kind(feeding) != kind:
            raise CheckpointError(
                f"{self.where}: layer {name!r} is fed by a {self.kind(feeding)}, expected a {kind}: not a ResNet v1."
            )
        return feeding

    def blocks(self) -> list[_Block]:
        return [self._block(name) for name in self.layers if self.kind(name) == "Add"]

    def _block(self, add: str) -> _Block:
        branch = [name for name in self.inputs[add] if self.kind(name) == "BatchNormalization"]
        shortcut = [name for name in self.inputs[add] if self.kind(name) in ("Conv2D", "Activation")]
        if len(branch) != 1 or len(shortcut) != 1:
            raise CheckpointError(
                f"{self.where}: {add!r} does not add a residual branch to a shortcut: not a ResNet v1."
            )
        conv2 = self.back(branch[0], "Conv2D")
        norm1 = self.back(conv2, "BatchNormalization")
        projection = shortcut[0] if self.kind(shortcut[0]) == "Conv2D" else None
        return _Block(self.back(norm1, "Conv2D"), norm1, conv2, branch[0], projection)


class _Weights:
    """Weights of a Keras .h5 file by layer."""

    def __init__(self, path: Path):
        try:
            import h5py
        except ImportError as error:
            raise CheckpointError("reading Keras weights needs h5py: pip install 'har_prune[keras]'.") from error
        try:
            with h5py.File(path, "r") as file:
                root = file["model_weights"] if "model_weights" in file else file
                found: dict[str, np.ndarray] = {}
                root.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "dtype") else {}))
        except OSError as error:
            raise CheckpointError(f"{path}: not an HDF5 file, or cut off ({error}).") from error
        self.path = path
        self._values = {
            (name.split("/")[0], name.rpartition("/")[2].partition(":")[0]): v for name, v in found.items()
        }

    def __call__(self, layer: str, name: str) -> Tensor:
        if (layer, name) not in self._values:
            raise CheckpointError(
                f"{self.path}: no {name!r} for layer {layer!r}; is it the .h5 that goes with the .json?"
            )
        return torch.from_numpy(np.ascontiguousarray(self._values[layer, name]))

    def conv(self, prefix: str, layer: str) -> dict[str, Tensor]:
        # Keras: [height, width, in, out]; torch: [out, in, height, width]
        kernel = self(layer, "kernel").permute(3, 2, 0, 1)
        return {f"{prefix}.weight": kernel, f"{prefix}.bias": self(layer, "bias")}

    def norm(self, prefix: str, layer: str) -> dict[str, Tensor]:
        names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        state = {f"{prefix}.{ours}": self(layer, theirs) for ours, theirs in names.items()}
        return {**state, f"{prefix}.num_batches_tracked": torch.tensor(0)}


def convert(h5: Path, architecture: Path, pixel_mean: np.ndarray) -> CifarResNetForImageClassification:
    """Builds the network a Keras checkpoint describes.

    Args:
        h5: Weights.
        architecture: The JSON of the model.
        pixel_mean: Mean training image, [32, 32, 3] in [0, 1].

    Raises:
        CheckpointError: A file is missing or damaged, or holds another architecture.
    """
    for path in (h5, architecture):
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist.")
    try:
        graph = _Graph(json.loads(architecture.read_text(encoding="utf-8")), architecture)
    except ValueError as error:  # not JSON, or not even text
        raise CheckpointError(f"{architecture}: not JSON ({error}).") from error
    weights, blocks = _Weights(h5), graph.blocks()
    if not blocks:
        raise CheckpointError(f"{architecture}: no residual blocks.")
    widths = [len(weights(block.conv2, "bias")) for block in blocks]
    stage_widths = list(dict.fromkeys(widths))
    stem, stem_norm, head = (graph.first(kind) for kind in ("Conv2D", "BatchNormalization", "Dense"))
    config = CifarResNetConfig(
        hidden_sizes=stage_widths,
        depths=[widths.count(width) for width in stage_widths],
        padding="tensorflow",
        projection_norm=False,
        conv_bias=True,
        subtract_pixel_mean=True,
        batch_norm_eps=graph.layers[stem_norm]["config"]["epsilon"],
        id2label=dict(enumerate(CIFAR10_LABELS)),
    )
    model = CifarResNetForImageClassification(config).eval()
    base = "cifar_resnet"
    state = {
        f"{base}.embedder.pixel_mean": torch.from_numpy(pixel_mean).permute(2, 0, 1),
        **weights.conv(f"{base}.embedder.convolution", stem),
        **weights.norm(f"{base}.embedder.normalization", stem_norm),
        "classifier.weight": weights(head, "kernel").T,
        "classifier.bias": weights(head, "bias"),
    }
    for block, width, number in zip(blocks, widths, range(len(blocks)), strict=True):
        stage = stage_widths.index(width)
        prefix = f"{base}.encoder.stages.{stage}.layers.{number - widths.index(width)}"
        state |= weights.conv(f"{prefix}.conv1", block.conv1) | weights.norm(f"{prefix}.norm1", block.norm1)
        state |= weights.conv(f"{prefix}.conv2", block.conv2) | weights.norm(f"{prefix}.norm2", block.norm2)
        if block.projection is not None:
            state |= weights.conv(f"{prefix}.shortcut.0", block.projection)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{h5}: the weights are not those of a CIFAR ResNet v1: {error}") from error
    return model


def main(
    h5: Annotated[Path, typer.Option(help="Keras weights.")],
    json: Annotated[Path, typer.Option(help="Keras architecture.")],
    output: Annotated[Path, typer.Option(help="New folder for the converted checkpoint.")],
    pixel_mean: Annotated[Path, typer.Option(help="Mean training image, .npy [32, 32, 3].")] = CIFAR10_PIXEL_MEAN,
) -> None:
    """Converts a Keras ResNet for CIFAR-10 into Hub format."""
    console = Console(stderr=True)
    try:
        model = convert(h5, json, np.load(pixel_mean, allow_pickle=False))
        processor = ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False)
        save_pruned(model, output, processor=processor)
    except (HarPruneError, OSError, ValueError) as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    console.print(f"ResNet-{2 * sum(model.config.depths) + 2}, depths {model.config.depths}, in {output}")


if __name__ == "__main__":
    typer.run(main)
