"""A run that is stopped or killed: real processes, real signals. A pipe in place of a file keeps a reader waiting."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import trees
from datasets import load_dataset


def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def reading(root, tmp_path):
    """Starts a run that waits in the middle of its files, and yields it; whatever is left in the end is killed."""
    started = []

    def start(num_proc):
        folder = tmp_path / "raw"
        folder.mkdir()
        for number in (1, 2):
            os.mkfifo(folder / f"mHealth_subject{number}.log")
        command = [sys.executable, "-m", "data_prep", "mhealth", folder, tmp_path / "out", "--num-proc", str(num_proc)]
        run = subprocess.Popen(list(map(str, command)), cwd=root, stderr=subprocess.PIPE, text=True)
        started.append(psutil.Process(run.pid))
        partial = tmp_path / ".partial-out"
        _until(lambda: (partial / "data").exists() and (num_proc == 1 or len(list(partial.glob("*/[01]"))) == 2))
        workers = psutil.Process(run.pid).children()
        assert len(workers) == (num_proc if num_proc > 1 else 0)
        started.extend(workers)
        return run, workers

    yield start
    for process in started:
        if process.is_running():
            process.kill()


def _gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("num_proc", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_so_in_one_line_and_leaves_nothing(reading, tmp_path, num_proc, number, code):
    run, workers = reading(num_proc)
    for process in [*workers, run] if number == signal.SIGINT else [run]:  # a terminal sends Ctrl-C to all of them
        process.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said.strip()) == (code, "stopped; nothing was written")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    assert all(map(_gone, workers))


def test_workers_do_not_outlive_a_killed_parent(reading, tmp_path):
    run, workers = reading(2)
    run.kill()
    _until(lambda: all(map(_gone, workers)))
    run.communicate(timeout=60)
    assert (tmp_path / ".partial-out").exists()


def test_nobody_writes_where_another_process_writes(reading, prepare, tmp_path):
    run, _ = reading(1)
    code, said = prepare("wharf", trees.wharf(tmp_path / "wharf"), tmp_path / "out")
    assert (code, "another process is writing" in said) == (2, True), said
    assert (tmp_path / ".partial-out" / "data").exists(), "what the other one has written"
    run.terminate()
    run.communicate(timeout=60)
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "wharf"}


def test_the_next_run_removes_what_a_killed_one_left(prepare, tmp_path):
    left = tmp_path / ".partial-out" / ".unpacked-x"
    left.mkdir(parents=True)
    (left / "half.txt").write_text("half")
    code, said = prepare("wharf", trees.wharf(tmp_path / "raw"), tmp_path / "out")
    assert code == 0, said
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_signals_do_nothing_between_the_renames_that_replace_a_data_set(prepare, tmp_path, monkeypatch):
    arguments = ["wharf", trees.wharf(tmp_path / "raw"), tmp_path / "out", "--overwrite"]
    assert prepare(*arguments)[0] == 0
    rename = Path.rename

    def interrupted(self, target):
        if self.parent == tmp_path:
            signal.raise_signal(signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    code, said = prepare(*arguments, "--drop", "Walk")
    assert code == 0, said
    assert "Walk" not in load_dataset(str(tmp_path / "out"), split="train").features["label"].names
