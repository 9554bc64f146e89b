"""ONNX files: written by torch, run by onnxruntime."""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from har_prune.errors import ExportError
from har_prune.exporters.deployed import Arrays, Deployed

_MISSING = "format onnx needs onnx, onnxscript and onnxruntime: pip install 'har_prune[onnx]'."


class OnnxFormat:
    """ONNX, with any number of examples in a batch, of any length where torch can export that."""

    suffix = ".onnx"

    def __init__(self) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported; it is on by default
        try:
            import onnx
            import onnxruntime
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ExportError(f"{_MISSING} ({error})") from error
        self._onnx, self._runtime = onnx, onnxruntime

    def write(self, made: Deployed, path: Path) -> bool:
        """Writes the file, with what it is as metadata; whether it takes examples of any length.

        Raises:
            ExportError: torch cannot export the network.
        """
        any_length = made.runs_shorter()
        try:
            self._export(made, path, made.lengths if any_length else None)
        except ExportError:  # the length is part of what torch can trace of it
            if not any_length:
                raise
            self._export(made, path, None)
            any_length = False
        model = self._onnx.load(path)
        for node in model.graph.node:  # where in torch a node came from takes more room than the weights
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
            value.ClearField("metadata_props")
        lengths = {"lengths": made.lengths} if any_length else {}
        for key, value in {**made.facts, **lengths, "made_by": "har_prune"}.items():
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
        self._onnx.save(model, path)
        return any_length

    @staticmethod
    def _export(made: Deployed, path: Path, lengths: tuple[int, int] | None) -> None:
        shape = {0: torch.export.Dim("batch")}
        if lengths is not None:
            shape[1] = torch.export.Dim("length", min=lengths[0], max=lengths[1])
        shapes = dict.fromkeys(made.example, shape)
        logger = logging.getLogger("torch.onnx")
        level = logger.level
        try:
            logger.setLevel(logging.ERROR)
            # The exporter speaks of its progress on stdout, and of its own deprecations.
            with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
                torch.onnx.export(
                    made.network.eval(), (), str(path), kwargs=made.example, dynamo=True, dynamic_shapes=shapes,
                    input_names=list(made.example), output_names=["logits", "probabilities"], external_data=False,
                )  # fmt: skip
        except Exception as error:  # whatever a network makes the exporter raise
            raise ExportError(f"torch cannot export this network to ONNX ({type(error).__name__}: {error})") from error
        finally:
            logger.setLevel(level)

    def quantize(self, made: Deployed, path: Path, calibration: Arrays) -> None:
        """Weights and activations of convolutions and matrix products in 8 bits, by channel; normalisation stays.

        Raises:
            ExportError: onnxruntime cannot quantize the network.
        """
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(quantization.CalibrationDataReader):
            def __init__(self) -> None:
                rows = len(next(iter(calibration.values())))
                self.batches = ({k: v[i : i + 32] for k, v in calibration.items()} for i in range(0, rows, 32))

            def get_next(self) -> Any:
                return next(self.batches, None)

        prepared = path.with_name("prepared.onnx")
        level = logging.root.manager.disable
        try:
            logging.disable(logging.WARNING)
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared), str(path), Reader(), op_types_to_quantize=["Conv", "MatMul", "Gemm"], per_channel=True
            )
        except Exception as error:  # whatever a network makes it raise
            raise ExportError(f"onnxruntime cannot quantize this network ({type(error).__name__}: {error})") from error
        finally:
            logging.disable(level)
            prepared.unlink(missing_ok=True)
        model = self._onnx.load(path)
        kept = [entry for entry in model.metadata_props if entry.key != "lengths"]  # 8 bits are judged on one length
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        self._onnx.save(model, path)

    def load(self, path: Path) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
        """A session on one thread."""
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(inputs: Any) -> tuple[np.ndarray, np.ndarray]:
            logits, probabilities = session.run(["logits", "probabilities"], dict(inputs))
            return logits, probabilities

        return run
