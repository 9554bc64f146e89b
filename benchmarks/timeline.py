"""A day of six-axis recordings at 50 Hz to a timeline, and a stream at 100 Hz: seconds, memory, share of a core.

    python benchmarks/timeline.py runs/quickstart/pruned runs/quickstart/onnx/model.onnx

The stream is fed ten samples at a time, as fast as it takes them; its share of a core is the processor time it takes
over the time that the samples cover.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import peak_bytes, resident_bytes, write_result

from har_prune import HarPipeline, HarStream

_SECONDS = 24 * 3600
_STREAM_HZ, _STREAM_S, _CHUNK = 100, 300, 10


def row_of(source: str, rate: float) -> dict[str, Any]:
    """One network over a whole day."""
    pipeline = HarPipeline.from_pretrained(source)
    shape = (round(_SECONDS * rate), len(pipeline.facts["channels"]))
    values = np.random.default_rng(0).normal(size=shape)
    before, start = resident_bytes(), time.perf_counter()
    found: list[Any] = []
    peak = peak_bytes(lambda: found.append(pipeline(values, rate)))
    seconds = time.perf_counter() - start
    stream, samples = HarStream(pipeline, _STREAM_HZ), values[: _STREAM_HZ * _STREAM_S]
    told = len(stream.push(samples[:1000]))  # the first windows warm up
    begun = time.process_time()
    for first in range(1000, len(samples), _CHUNK):
        told += len(stream.push(samples[first : first + _CHUNK]))
    share = (time.process_time() - begun) / ((len(samples) - 1000) / _STREAM_HZ)
    return {
        "network": "/".join(Path(source).parts[-2:]),
        "windows": len(found[0].starts_s),
        "seconds": round(seconds, 1),
        "peak above the start, MiB": round((peak - before) / 2**20),
        "peak in all, MiB": round(peak / 2**20),
        "stream, % of a core": round(100 * share, 2),
        "stream, predictions": told,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--rate", type=float, default=50.0)
    given = parser.parse_args()
    rows = [row_of(source, given.rate) for source in given.networks]
    facts = {"samples": round(_SECONDS * given.rate), "rate, Hz": given.rate, "threads": torch.get_num_threads()}
    write_result("timeline", "A day to a timeline", facts, rows)


if __name__ == "__main__":
    main()
