import pytest
import torch
from families import har_transformer

from har_prune.blocks.example_inputs import example_inputs
from har_prune.recipe import accelerator
from har_prune.recipe.accelerator import make_accelerator, may_be_timed, set_threads, timed_precision


@pytest.fixture(autouse=True)
def _threads_come_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("asked", "environment", "processes", "threads"),
    [
        (None, "3", "1", 3),  # the user's word counts
        (None, None, "1", 8),
        (None, None, "2", 4),
        ("auto", "3", "2", 4),
        (2, "3", "1", 2),
        (None, "many", "1", 8),
    ],
)
def test_threads_are_what_was_asked_for(asked, environment, processes, threads, monkeypatch):
    monkeypatch.setattr(accelerator, "cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    if environment is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    set_threads(asked)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(1)
    make_accelerator(num_threads=asked)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_auto_is_what_a_clock_says_and_the_model_comes_back_as_it_was(faster, monkeypatch):
    model = har_transformer().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clock, in_bf16 = [0.0], []

    def seen(module, args):
        in_bf16.append(torch.is_autocast_enabled("cpu"))
        clock[0] += 1.0 if in_bf16[-1] == (faster == "bf16") else 5.0

    model.register_forward_pre_hook(seen)
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: clock[0])
    assert timed_precision(model, {**example_inputs(model), "labels": torch.zeros(2)}) == faster
    assert set(in_bf16) == {True, False}
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_one_process_on_a_cpu_with_bf16_asks_the_clock(monkeypatch):
    monkeypatch.setattr(accelerator, "computes_in_bf16", lambda: True)
    assert may_be_timed("auto")
    assert not may_be_timed("bf16")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not may_be_timed("auto")
