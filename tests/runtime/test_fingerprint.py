"""The fingerprint of data: the same for the same data in any order, another for other data, and no side effects."""

import random

import numpy as np
import pytest
import torch
from datasets import Dataset as Table
from datasets import Features, Image
from tiny_data import loader, windows
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler

from har_prune.data.batches import make_loader
from har_prune.data.images import ImageColumn
from har_prune.data.load import LabelledData, load_data
from har_prune.runtime.batches import fingerprint_of


class _Examples(Dataset):
    def __init__(self, draw, count=100):
        self.draw, self.count = draw, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"x": torch.full((2,), float(index)) + self.draw(), "name": f"n{index}", "pair": (index, None)}


def test_the_order_of_an_epoch_does_not_matter_and_what_is_in_it_does():
    known = fingerprint_of(loader(48, 0))
    assert fingerprint_of(loader(48, 0, shuffle=True)) == known
    assert fingerprint_of(DataLoader(windows(48, 0), batch_size=3, sampler=SubsetRandomSampler(range(9)))) == known
    assert fingerprint_of(loader(48, 1)) != known
    assert fingerprint_of(loader(51, 0)) != known
    batches = list(loader(48, 0))
    assert fingerprint_of(batches) == fingerprint_of(list(loader(48, 0)))
    assert fingerprint_of(batches) != fingerprint_of(batches[:2])
    changed = [{**batch, "input_values": batch["input_values"] + 1e-3} for batch in batches]
    assert fingerprint_of(changed) != fingerprint_of(batches)
    halves = [{**batch, "input_values": batch["input_values"].bfloat16()} for batch in batches]
    assert fingerprint_of(halves) != fingerprint_of(batches)


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(2), lambda: np.random.rand(), random.random, np.random.default_rng().random]
)
def test_random_examples_have_one_fingerprint_and_random_state_stays(draw):
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    first = fingerprint_of(DataLoader(_Examples(draw)))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]
    assert fingerprint_of(DataLoader(_Examples(draw))) == first
    assert fingerprint_of(DataLoader(_Examples(draw, count=101))) != first


def test_what_cannot_be_looked_at_has_none():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(windows(4, 0))

    class ByName(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, name):
            return {"a": 1}[name]

    assert fingerprint_of(DataLoader(Stream())) is None
    assert fingerprint_of(batch for batch in ()) is None
    assert fingerprint_of(DataLoader(ByName())) is None


def test_each_part_of_a_data_set_counts():
    data = load_data("synthetic")
    assert load_data("synthetic").fingerprint == data.fingerprint
    fields = {name: getattr(data, name) for name in ("kind", "values", "labels", "label_names", "splits", "subjects")}
    fields |= {"sensor": data.sensor, "trials": data.trials}
    values, labels, subjects = data.values.copy(), data.labels.copy(), data.subjects.copy()
    values[-1, -1, -1] += 1e-3
    labels[-1] = 0
    subjects[-1] = "s01"
    for changed in (
        {"values": values}, {"labels": labels}, {"subjects": subjects}, {"label_names": data.label_names[::-1]},
        {"splits": np.full(len(data), "test")}, {"sensor": {**data.sensor, "sampling_rate_hz": 25.0}},
    ):  # fmt: skip
        assert LabelledData(**{**fields, **changed}).fingerprint != data.fingerprint, changed.keys()
    rows = [fingerprint_of(make_loader(data, rows, None, 4)) for rows in (range(8), range(8), range(1, 9))]
    assert rows[0] == rows[1] != rows[2]
    assert fingerprint_of(make_loader(data, range(8), None, 4, augment=[])) == rows[0]


def test_texts_and_images_that_are_read_when_needed_have_one(tmp_path):
    texts = np.array(["a b", "c"], dtype=object)
    made = [
        LabelledData("text", t, None, [], np.array(["train"] * 2)).fingerprint for t in (texts, texts, texts[::-1])
    ]
    assert made[0] == made[1] != made[2]

    def column(first):
        pixels = [np.full((4, 4, 3), value, np.uint8) for value in (first, 5, 6)]
        return ImageColumn(Table.from_dict({"image": pixels}, features=Features({"image": Image()})), "image")

    assert column(1).fingerprint == column(1).fingerprint != column(2).fingerprint
    labelled = [LabelledData("image", column(1), np.array(labels), ["a", "b"], np.array(["train"] * 3))
                for labels in ([0, 1, 0], [0, 1, 1])]  # fmt: skip
    assert labelled[0].fingerprint != labelled[1].fingerprint
