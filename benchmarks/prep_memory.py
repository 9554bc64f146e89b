"""Peak memory of preparing a large synthetic tree in MHEALTH's format, each run in a process of its own.

python benchmarks/prep_memory.py --gib 1 10
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import peak_bytes, write_result

from data_prep.hub_folder import new_folder, write
from data_prep.mhealth import DATA_SET
from data_prep.recordings import Windowing

_FILE_MIB = 64  # the largest of the real set has 37


def make_tree(folder: Path, gib: float) -> None:
    """One file, linked under as many subjects' names as make up the size: reading does not know."""
    generator = np.random.default_rng(0)
    lines = []
    for number in range(3000):
        row = "\t".join(f"{value:.5f}" for value in generator.normal(0, 5, 23))
        lines.append(f"{row}\t{number // 250 + 1}\n")
    block = "".join(lines)
    first = folder / "mHealth_subject1.log"
    first.write_text(block * round(_FILE_MIB * 2**20 / len(block)))
    for number in range(2, round(gib * 1024 / _FILE_MIB) + 1):
        os.link(first, folder / f"mHealth_subject{number}.log")


def measure(tree: Path, out: Path) -> None:
    """Prints windows, seconds and the peak in bytes."""
    source = DATA_SET.sources[0]

    def prepare() -> int:
        with new_folder(out) as folder:
            return write(DATA_SET, DATA_SET.parts(tree, source), Windowing(source), folder).windows.total()

    windows: list[int] = []
    start = time.perf_counter()
    peak = peak_bytes(lambda: windows.append(prepare()))
    print(windows[0], time.perf_counter() - start, peak)


def main() -> None:
    """Measures every size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--tree", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.tree:
        measure(arguments.tree, arguments.out)
        return
    table = []
    for gib in arguments.gib:
        with tempfile.TemporaryDirectory() as scratch:
            tree = Path(scratch, "tree")
            tree.mkdir()
            make_tree(tree, gib)
            command = [sys.executable, __file__, "--tree", str(tree), "--out", str(Path(scratch, "out"))]
            windows, seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            written = sum(path.stat().st_size for path in Path(scratch, "out").rglob("*.parquet"))
        row = {"raw text, GiB": gib, "files": round(gib * 1024 / _FILE_MIB), "windows": int(windows)}
        table.append({**row, "parquet bytes": written, "peak bytes": int(peak), "minutes": float(seconds) / 60})
    write_result("prep_memory", "Peak memory of preparing a large data set, one process", {}, table)


if __name__ == "__main__":
    main()
