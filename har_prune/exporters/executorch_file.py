"""ExecuTorch files (.pte) for phones and watches: lowered to XNNPACK, run by ExecuTorch's own runtime."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from har_prune.errors import ExportError
from har_prune.exporters.deployed import Deployed


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
        one = tuple(value[:1] for value in made.example.values())
        level = logging.root.manager.disable
        try:
            logging.disable(logging.WARNING)
            with warnings.catch_warnings(action="ignore"):
                program = torch.export.export(made.network.eval(), one)
                path.write_bytes(self._lower(program, partitioner=[self._partitioner()]).to_executorch().buffer)
        except Exception as error:  # whatever a network makes the exporter raise
            raise ExportError(
                f"this network cannot be exported to ExecuTorch ({type(error).__name__}: {error})"
            ) from error
        finally:
            logging.disable(level)
        return False

    def quantize(self, path: Path, calibration: Any) -> None:
        """Not offered.

        Raises:
            ExportError: Always.
        """
        raise ExportError("8-bit integers are offered in format onnx: leave --int8 out, or choose --format onnx.")

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
