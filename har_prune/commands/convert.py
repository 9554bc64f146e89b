"""`har-prune convert`: a Keras ResNet for CIFAR-10 in Hub format."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    h5: Annotated[Path, typer.Option(help="Keras weights.")],
    json: Annotated[Path, typer.Option(help="Keras architecture.")],
    output: Annotated[Path, typer.Option(help="New folder for the converted checkpoint.")],
    pixel_mean: Annotated[
        Path | None, typer.Option(help="Mean training image, .npy [32, 32, 3]. [that of CIFAR-10]")
    ] = None,
) -> None:
    """Converts a Keras ResNet for CIFAR-10 into Hub format."""
    from har_prune.checkpoints.convert_keras import convert_to
    from har_prune.runtime.console import say

    config = convert_to(output, h5, json, pixel_mean).config
    say(f"ResNet-{2 * sum(config.depths) + 2}, depths {config.depths}, in {output}")
