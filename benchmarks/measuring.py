"""What benchmarks share: the matrix-product rate of the machine, and result files that say where they come from."""

import json
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from har_prune.runtime.environment import environment
from har_prune.runtime.files import whole_file, write_json

RESULTS = Path(__file__).parent / "results"


def alternating(runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, run in turn after one round nobody counts."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for round_number in range(rounds + 1):
        for name, run in runs.items():
            _finish(device)
            start = time.perf_counter()
            run()
            _finish(device)
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def matmul_gflops(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """The best rate at which this machine multiplies square matrices, of several sizes."""
    best = 0.0
    for size in (1024, 2048, 4096):
        a, b = (torch.randn((size, size), device=device, dtype=dtype) for _ in range(2))
        seconds = alternating({"": lambda a=a, b=b: a @ b}, 9, device)[""]
        best = max(best, 2 * size**3 / seconds / 1e9)
    return best


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most memory this process held while something ran (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    kept = run()
    peak = _status("VmHWM")
    del kept
    return peak


def resident_bytes() -> int:
    """Memory this process holds now (Linux)."""
    return _status("VmRSS")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_result(
    name: str,
    title: str,
    facts: dict[str, Any],
    table: Sequence[dict[str, Any]],
    trials: dict[str, Any] | None = None,
) -> None:
    """Writes `results/NAME.json` and `.md`: command, commit, machine, versions, facts and a table.

    What each trial found goes into the first alone: whoever doubts the table can make it again.
    """
    command = shlex.join(["python", *sys.argv])
    record = {"title": title, "command": command, "environment": environment(), "facts": facts, "table": list(table)}
    record |= {"trials": trials} if trials else {}
    write_json(RESULTS / f"{name}.json", record)
    print(render(name))


def render(name: str) -> str:
    """Writes `results/NAME.md` as `results/NAME.json` has it; returns what it says."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    made, table = record.get("environment"), record["table"]
    lines = [f"# {record['title']}", "", f"    {record['command']}", ""]
    lines += [f"- {key}: {_text(value)}" for key, value in record["facts"].items()]
    if made is not None:  # a table made of others has none of its own
        machine = {key: value for key, value in made["machine"].items() if value is not None}
        lines += [f"- commit: {made['commit']}", f"- machine: {_text(machine)}"]
    columns = list(dict.fromkeys(key for row in table for key in row))
    lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_text(row.get(column, "")) for column in columns) + " |" for row in table]
    text = "\n".join(lines) + "\n"
    with whole_file(RESULTS / f"{name}.md") as partial:
        partial.write_text(text, encoding="utf-8")
    return text


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
