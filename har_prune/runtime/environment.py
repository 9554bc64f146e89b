"""What a number was measured with: versions, machine and commit."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import har_prune

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "evaluate", "scikit-learn", "safetensors", "numpy")


def environment() -> dict[str, Any]:
    """Versions of the libraries, the machine, and the commit of har_prune ("dirty" when files differ from it)."""
    return {
        "har_prune": har_prune.__version__,  # of the code that runs; a checkout may not be installed
        "commit": _commit(),
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _commit() -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        # Installed somewhere inside another project's checkout, that project's commit would say nothing.
        if not git("ls-files", Path(__file__).name):
            return "unknown"
        return git("rev-parse", "HEAD") + (" (dirty)" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
