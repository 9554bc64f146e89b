import json

from accelerate import Accelerator

from har_prune.runtime.tracker import JsonLinesTracker


def _log(path, *lines):
    """A process of its own: a tracker knows only what it has logged itself."""
    Accelerator()
    tracker = JsonLinesTracker(path)
    for step, values in lines:
        tracker.log(values, step=step)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_training_that_is_done_again_stands_there_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _log(
        path,
        (1, {"train/loss": 3.0}),
        (0, {"prune/macs": 9}),
        (1, {"heal-001/loss": 2.0}),
        (2, {"heal-001/loss": 1.9}),
    )
    lines = _log(path, (1, {"heal-001/loss": 2.0}), (2, {"heal-001/loss": 1.9}), (1, {"prune/macs": 8}))
    assert lines == [
        {"step": 1, "train/loss": 3.0},
        {"step": 0, "prune/macs": 9},
        {"step": 1, "heal-001/loss": 2.0},
        {"step": 2, "heal-001/loss": 1.9},
        {"step": 1, "prune/macs": 8},
    ]
