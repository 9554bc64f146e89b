"""What is asked of somebody else's loaders and accelerators."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from families import har_transformer
from tiny_data import loader, windows
from torch.utils.data import DataLoader

from har_prune import TrainConfig, evaluate_model, score_blocks, train_model
from har_prune.errors import DataError, ProcessGroupError
from har_prune.runtime import batches
from har_prune.runtime.batches import drawn_by


def test_batches_that_accelerate_has_split_are_refused_in_several_processes(monkeypatch):
    """Each process would take its share of its share: of 64 examples 32 would be seen."""
    model, prepared = har_transformer(2), Accelerator(cpu=True).prepare(loader(32, 0))
    assert evaluate_model(model, prepared).samples == 32, "of one process they are whole"
    monkeypatch.setattr(batches, "PartialState", lambda: SimpleNamespace(num_processes=2))
    for use in (lambda: evaluate_model(model, prepared), lambda: score_blocks(model, prepared, "cka")):
        with pytest.raises(DataError, match="give the loader as it was before"):
            use()


def test_an_accelerator_that_divides_losses_is_refused():
    dividing = Accelerator(cpu=True, gradient_accumulation_steps=4)
    with pytest.raises(ProcessGroupError, match=r"gradient_accumulation_steps=4.*set `accumulation`"):
        train_model(har_transformer(2), loader(32, 0), None, TrainConfig(epochs=1), accelerator=dividing)


def test_a_loader_draws_by_the_seed_and_has_its_generator_again():
    own = torch.Generator().manual_seed(5)
    drawing = DataLoader(windows(32, 0), batch_size=8, shuffle=True, generator=own)
    state = own.get_state()

    def order():
        return torch.cat([batch["labels"] for batch in drawing]).tolist()

    with drawn_by(1, drawing):
        first = order()
    assert torch.equal(own.get_state(), state)
    order()
    with drawn_by(1, drawing):
        assert order() == first
    with drawn_by(2, drawing):
        assert order() != first
    assert drawing.generator is drawing.sampler.generator is own
