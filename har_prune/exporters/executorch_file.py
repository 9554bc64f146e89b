"""ExecuTorch files (.pte) for phones and watches: lowered to XNNPACK, run by ExecuTorch's own runtime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from har_prune.errors import ExportError
from har_prune.exporters.deployed import Arrays, Deployed


class ExecutorchFormat:
    """ExecuTorch, one example at a time: what a device asks."""

    suffix = ".pte"

    def __init__(self) -> None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                import executorch.runtime as runtime
                from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
                from executorch.exir import to_edge_transform_and_lower
        except ImportError as error:
            raise ExportError(
                f"format executorch needs executorch: pip install 'har_prune[executorch]'. ({error})"
            ) from error
        self._runtime, self._partitioner, self._lower = runtime, XnnpackPartitioner, to_edge_transform_and_lower

    def write(self, made: Deployed, path: Path) -> bool:
        """Writes the file; it takes examples of one length.

        Raises:
            ExportError: The network cannot be lowered.
        """
        with _quietly("be exported to ExecuTorch"):
            path.write_bytes(self._lowered(made.network.eval(), _one_of(made.example, 0)))
        return False

    def quantize(self, made: Deployed, path: Path, calibration: Arrays) -> None:
        """Weights and activations of convolutions and linear layers in 8 bits, by channel; normalisation stays.

        Raises:
            ExportError: torch cannot quantize the network.
        """
        with _quietly("be quantized for ExecuTorch"):
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            quantizer, aten = XNNPACKQuantizer(), torch.ops.aten
            for operator in (aten.conv1d.default, aten.conv2d.default, aten.linear.default):
                quantizer.set_operator_type(operator, get_symmetric_quantization_config(is_per_channel=True))
            examples = {name: torch.as_tensor(values) for name, values in calibration.items()}
            one = _one_of(examples, 0)
            watched = prepare_pt2e(torch.export.export(made.network.eval(), one).module(), quantizer)
            for row in range(len(next(iter(examples.values())))):
                watched(*_one_of(examples, row))
            path.write_bytes(self._lowered(convert_pt2e(watched), one))

    def _lowered(self, network: Any, one: tuple[torch.Tensor, ...]) -> bytes:
        program = torch.export.export(network, one)
        return self._lower(program, partitioner=[self._partitioner()]).to_executorch().buffer

    def load(self, path: Path) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
        """A program; it takes the examples of a batch one after the other."""
        method = self._runtime.Runtime.get().load_program(str(path)).load_method("forward")

        def run(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
            values = [torch.as_tensor(value) for value in inputs.values()]
            found = [
                [output.numpy().copy() for output in method.execute([value[row : row + 1] for value in values])]
                for row in range(len(values[0]))
            ]
            logits, probabilities = (np.concatenate(each) for each in zip(*found, strict=True))
            return logits, probabilities

        return run


def _one_of(examples: Mapping[str, torch.Tensor], row: int) -> tuple[torch.Tensor, ...]:
    return tuple(value[row : row + 1] for value in examples.values())


@contextlib.contextmanager
def _quietly(what: str) -> Iterator[None]:
    """Without what the exporter says of its progress; whatever a network makes it raise is one error."""
    level = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:
        raise ExportError(f"this network cannot {what} ({type(error).__name__}: {error})") from error
    finally:
        logging.disable(level)
