"""What an export is worth: size, time, difference and accuracy of each format, of networks of one run.

    python benchmarks/exports.py data/wharf f1 original=RUN/original pruned=RUN/pruned

Networks are given as NAME=FOLDER; the accuracy is that of all windows of the subject who tests.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import write_result

import har_prune  # noqa: F401  registers the models
from har_prune.checkpoints.load import Checkpoint
from har_prune.commands.options import data_config
from har_prune.exporters.deployed import raw_inputs
from har_prune.exporters.export import Quantization, export_model, format_of
from har_prune.recipe.prepare import prepared_for


def rows_of(name: str, folder: str, data: str, subject: str) -> list[dict[str, Any]]:
    """One row for each format."""
    made = prepared_for(Checkpoint(folder), data_config(data, None, None, [subject], None), 0)
    calibration, test = (
        raw_inputs(made.preprocess(made.data.raw(rows)), made.processor)
        for rows in (made.calibration_rows(512, 0), made.splits.test)
    )
    labels = torch.as_tensor(made.data.labels[made.splits.test])
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        eight_bits = Quantization(calibration, (test, labels), max_drop=1.0)
        for kind, format, int8 in (
            ("ONNX", "onnx", None),
            ("ONNX, 8 bits", "onnx", eight_bits),
            ("ExecuTorch", "executorch", None),
            ("ExecuTorch, 8 bits", "executorch", eight_bits),
        ):
            place = Path(scratch, kind)
            found = export_model(made.model, made.processor, place, format, real=[calibration], int8=int8)
            run = format_of(format).load(place / found.file)
            chosen = run({key: value.numpy() for key, value in test.items()})[0].argmax(-1)
            rows.append({
                "network": name,
                "format": kind,
                "KiB": round(found.size_bytes / 1024, 1),
                "largest difference of a logit": f"{found.difference:.0e}",
                "ms": round(found.latency_ms, 3),
                "saved model in turns, ms": round(found.torch_ms, 3),
                "accuracy %": f"{100 * float(np.mean(chosen == labels.numpy())):.2f}",
            })  # fmt: skip
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("subject")
    parser.add_argument("networks", nargs="+")
    given = parser.parse_args()
    torch.set_num_threads(1)
    named = dict(each.split("=", 1) for each in given.networks)
    rows = [row for name, folder in named.items() for row in rows_of(name, folder, given.data, given.subject)]
    facts = {"data": Path(given.data).name, "test subject": given.subject, "threads": 1}
    write_result("exports", "What an export is worth", facts, rows)


if __name__ == "__main__":
    main()
