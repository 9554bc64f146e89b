"""Records: formats of all versions, kinds of measurement, and that nothing is found or counted twice."""

import inspect
import json
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from families import har_transformer
from tiny_data import loader

from har_prune import PruneConfig, PruningHistory, count_macs, find_blocks, prune, register_measurement
from har_prune.blocks import families
from har_prune.blocks.probe import probe_containers
from har_prune.errors import FormatError
from har_prune.evaluation import measurement
from har_prune.pruning.history import PruningStep
from har_prune.reporting.report import run_report
from har_prune.reporting.summary import summary_table

FIXTURES = Path(__file__).parent / "histories"


@contextmanager
def counting(*functions):
    """Counts calls of functions by name, wherever they were imported to."""
    names, calls = {inspect.unwrap(function).__code__: function.__name__ for function in functions}, Counter()

    def called(frame, event, _):
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    sys.setprofile(called)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def _three_removals(**fields):
    config = PruneConfig(**{"target": {"blocks": 3}, "evaluate": {"latency": False}, **fields})
    return prune(har_transformer(6), None, list(loader(32, 1)), loader(16, 2), config)


def test_a_run_finds_and_counts_each_network_once():
    with counting(find_blocks, count_macs) as calls:
        assert len(_three_removals().history.removed) == 3
    assert calls["find_blocks"] <= 4
    assert calls["count_macs"] <= 10


def test_a_model_without_a_family_is_probed_once(monkeypatch):
    monkeypatch.delitem(families._FAMILIES, "har_transformer")
    with counting(probe_containers) as calls:
        assert len(_three_removals().history.removed) == 3
    assert calls["probe_containers"] <= 4


def _shown(history):
    table = summary_table(history)
    assert table.row_count >= 4
    return run_report(history, "a command")


@pytest.mark.parametrize("name", ["wharf", "cifar10_resnet56_cpu"])
def test_the_committed_runs_load_print_and_report(name, root):
    value = json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text())
    assert "format" not in value, "these were written by 0.1"
    history = PruningHistory.from_json(value)
    first, last = value["iterations"][0], value["iterations"][value["selected"]]
    assert (history.before.cost.macs, history.after.cost.parameters) == (first["macs"], last["parameters"])
    assert history.after.cost.latency.median_ms == last["latency_ms"]
    assert history.after.metrics["test"].accuracy == last["quality"]["test"]["accuracy"]
    assert history.after.healing.samples_seen == last["samples_seen"]
    assert f"{100 * last['quality']['test']['accuracy']:.2f}" in _shown(history)
    assert PruningHistory.from_json(json.loads(json.dumps(history.to_json()))) == history


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_every_format_is_still_read(path):
    value = json.loads(path.read_text())
    history = PruningHistory.from_json(value)
    assert str(value.get("format", 0)) in path.stem
    assert len(history.iterations) == 3
    assert history.removed == [block for step in value["iterations"] for block in step["removed"]]
    assert history.shown_split == "test"
    assert history.after.scores[0].samples == 32
    assert history.iterations[1].calibration.criterion == "cka"
    assert PruningStep.from_json(value["iterations"][1]) == history.iterations[1], "step.json has the same formats"
    assert PruningHistory.from_json(json.loads(json.dumps(history.to_json()))) == history
    _shown(history)


def test_a_later_format_names_the_version_to_install():
    value = {**_three_removals().history.to_json(), "format": 7, "environment": {"har_prune": "3.1.0"}}
    with pytest.raises(FormatError, match=r"format 7, written by har_prune 3\.1\.0.*Install har_prune==3\.1\.0"):
        PruningHistory.from_json(value)


def test_former_names_of_a_step_still_answer():
    step = _three_removals().history.after
    for name, value in {
        "quality": step.metrics, "macs": step.cost.macs, "parameters": step.cost.parameters, "latency_ms": None,
        "healed": False, "samples_seen": 0,
    }.items():  # fmt: skip
        with pytest.warns(DeprecationWarning, match=f"PruningStep.{name} is now"):
            assert getattr(step, name) == value
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        step.nothing  # noqa: B018


def test_a_new_kind_of_measurement_is_one_class(monkeypatch, tmp_path):
    monkeypatch.setattr(measurement, "_KINDS", dict(measurement._KINDS))

    @register_measurement("sparsity")
    @dataclass(frozen=True)
    class Sparsity:
        zeros: float

        @classmethod
        def measure(cls, network):
            values = torch.cat([p.detach().flatten() for p in network.model.parameters()])
            return cls((values == 0).double().mean().item())

        @property
        def figures(self):
            return {"zeros %": 100 * self.zeros}

    result = _three_removals(output_dir=tmp_path / "run")
    history = result.history
    for path in ("iteration-001/step.json", "history.json"):
        record = json.loads((tmp_path / "run" / path).read_text())
        step = record if "iteration" in record else record["iterations"][1]
        assert step["sparsity"] == {"zeros": history.iterations[1].measured["sparsity"].zeros}
        assert "robustness" not in step, "what was not measured is absent"
    assert PruningHistory.from_json(json.loads((tmp_path / "run" / "history.json").read_text())) == history
    report = run_report(history, "")
    assert "zeros %" in report
    assert f"{100 * history.after.measured['sparsity'].zeros:.2f}" in report
    assert "zeros %" in [str(cell) for cell in summary_table(history).columns[0].cells]
    with pytest.raises(ValueError, match="'sparsity' is registered already"):
        register_measurement("sparsity")(Sparsity)
    with pytest.raises(TypeError, match="'other': int has no measure, figures"):
        register_measurement("other")(int)
    monkeypatch.delitem(measurement._KINDS, "sparsity")
    elsewhere = PruningHistory.from_json(history.to_json())
    assert elsewhere.after.measured == {"sparsity": {"zeros": history.after.measured["sparsity"].zeros}}
    assert replace(elsewhere.after, measured={}) == replace(history.after, measured={})
