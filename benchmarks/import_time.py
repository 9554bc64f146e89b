"""What `import har_prune` costs beside what a user of transformers imports anyway, in processes of their own.

python benchmarks/import_time.py
"""

import argparse
import statistics
import subprocess
import sys
import time

from measuring import write_result

USUAL = "import torch; from transformers import AutoModel, PreTrainedModel"
WAYS = {
    "torch and transformers": USUAL,
    "har_prune": "import har_prune",
    "har_prune, and prune": "from har_prune import prune",
}


def seconds_of(code: str) -> float:
    """Wall-clock seconds of a process that runs some code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    """Runs them in turn, and writes medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(rounds + 1):
        for name, code in WAYS.items():
            seconds = seconds_of(code)
            if number:  # the first reads the files from disk
                found[name].append(seconds)
    usual = statistics.median(found["torch and transformers"])
    table = [
        {
            "imported": name,
            "median s": round(statistics.median(values), 2),
            "times the usual": round(statistics.median(values) / usual, 3),
        }
        for name, values in found.items()
    ]
    write_result("import_time", "Time of an import", {"rounds": rounds}, table)


if __name__ == "__main__":
    main()
