"""Peak memory of preparing large synthetic recordings: many files in MHEALTH's format, and one CSV file.

    python benchmarks/prep_memory.py --gib 1 10

Each run is a process of its own.
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

from data_prep.column_map import ColumnMap
from data_prep.hub_folder import new_folder, write
from data_prep.readers import csv_files, mhealth
from data_prep.recordings import Reader, Windowing

_FILE_MIB = 64  # the largest of the real set has 37
_RATE_HZ = 50
_MAP = ColumnMap.model_validate({
    "sampling_rate_hz": _RATE_HZ,
    "channels": {name: {"column": name, "unit": "m/s^2"} for name in "abcdefghijklmnopqrstu"},  # 21, as MHEALTH
    "label": {"column": "activity"},
    "subject": {"column": "user"},
})  # fmt: skip


def make_files(folder: Path, gib: float) -> None:
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


def make_csv(folder: Path, gib: float) -> None:
    """One file of all users, an activity of a minute after another."""
    generator, size = np.random.default_rng(0), 0
    samples = [",".join(f"{value:.5f}" for value in generator.normal(0, 5, 21)) for _ in range(60 * _RATE_HZ)]
    with (folder / "all.csv").open("w") as file:
        file.write(",".join([*_MAP.channels, "activity", "user"]) + "\n")
        minute = 0
        while size < gib * 2**30:
            who = f",activity{minute % 12},user{minute // 120}\n"
            size += file.write(who.join(samples) + who)
            minute += 1


LAYOUTS = {"files": make_files, "csv": make_csv}


def measure(layout: str, tree: Path, out: Path) -> None:
    """Prints windows, seconds and the peak in bytes."""

    def prepare() -> int:
        reader: Reader = mhealth.READER if layout == "files" else csv_files.reader(tree, _MAP)
        info = reader.infos[0]
        with new_folder(out) as folder:
            return write(reader, reader.parts(tree, info), Windowing(info), folder).windows.total()

    windows: list[int] = []
    start = time.perf_counter()
    peak = peak_bytes(lambda: windows.append(prepare()))
    print(windows[0], time.perf_counter() - start, peak)


def main() -> None:
    """Measures every size in every layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--measure", nargs=3, metavar=("LAYOUT", "TREE", "OUT"), help="one run, in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        layout, tree, out = arguments.measure
        measure(layout, Path(tree), Path(out))
        return
    table = []
    for layout, make in LAYOUTS.items():
        for gib in arguments.gib:
            with tempfile.TemporaryDirectory() as scratch:
                tree, out = Path(scratch, "tree"), Path(scratch, "out")
                tree.mkdir()
                make(tree, gib)
                files = len(list(tree.iterdir()))
                command = [sys.executable, __file__, "--measure", layout, str(tree), str(out)]
                said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                written = sum(path.stat().st_size for path in out.rglob("*.parquet"))
            windows, seconds, peak = said.split()
            row = {"raw text, GiB": gib, "files": files, "windows": int(windows)}
            table.append({**row, "parquet bytes": written, "peak bytes": int(peak), "minutes": float(seconds) / 60})
    write_result("prep_memory", "Peak memory of preparing a large data set, one process", {}, table)


if __name__ == "__main__":
    main()
