"""Processes that kill themselves with SIGKILL at a chosen moment."""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any


def die_at_call(module: str, name: str, number: int) -> None:
    """From now on this process kills itself at the start of the number-th call of a module's function."""
    home: Any = importlib.import_module(module)
    original, calls = getattr(home, name), 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(home, name, counting)


def in_new_process(target: Callable, *args: Any) -> int | None:
    """Exit code of a function in a process of its own; a fork server spares it the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["har_prune.recipe.steps", "tiny_data"])
    process = context.Process(target=target, args=args)
    process.start()
    process.join(timeout=120)
    return process.exitcode
