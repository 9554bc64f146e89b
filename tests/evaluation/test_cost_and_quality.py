import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from unittest import mock

import evaluate
import numpy as np
import pytest
import torch
from families import cifar_resnet, decoder, har_transformer, llama, resnet_basic
from sklearn.metrics import f1_score
from torch import nn
from transformers import BertConfig, BertModel, MixtralForCausalLM

from har_prune import (
    EvaluateConfig,
    HarFeatureExtractor,
    Latency,
    count_macs,
    evaluate_model,
    find_blocks,
    macs_by_module,
    measure_cost,
    measure_latency,
    remove_blocks,
)
from har_prune.blocks.example_inputs import example_inputs
from har_prune.data.batches import SensorInputs, make_loader
from har_prune.data.load import LabelledData
from har_prune.errors import RecipeError, ShapeError
from har_prune.evaluation.cost import peak_activation_bytes
from har_prune.evaluation.energy import Energy, estimate_energy
from har_prune.evaluation.metrics import load_metric
from har_prune.reporting.trajectory import latency_text


def test_experts_count_as_what_their_plain_loop_counts():
    """transformers multiplies all experts at once, by an operation that torch's counter does not know."""
    model = decoder(MixtralForCausalLM, num_local_experts=4, num_experts_per_tok=2)
    inputs = example_inputs(model)
    at_once = count_macs(model, inputs)
    model.set_experts_implementation("eager")
    assert at_once == count_macs(model, inputs)


def test_resnet_56_has_the_macs_of_the_paper():
    model = cifar_resnet(depths=[9, 9, 9], hidden_sizes=[16, 32, 64], image_size=32, num_labels=10)
    inputs = example_inputs(model)
    assert count_macs(model, inputs, "paper") == 125_747_840
    for index in (1, 12, 25):
        assert count_macs(remove_blocks(model, [index]), inputs, "paper") == 125_747_840 - 4_718_592


def test_attention_counts_with_every_implementation():
    model = har_transformer(2)
    patches, width, feed_forward = (32 - 8) // 4 + 1, 32, 48
    block = patches * (4 * width**2 + 2 * width * feed_forward) + 2 * patches**2 * width
    total = patches * 6 * 8 * width + 2 * block + 3 * width
    inputs = example_inputs(model, batch_size=3)
    assert count_macs(model, inputs) == total
    assert count_macs(model, inputs, "paper") == total - 2 * 2 * patches**2 * width
    model.config._attn_implementation = "eager"
    assert count_macs(model, inputs) == total
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, vocab_size=9)
    counts = {
        implementation: count_macs(BertModel._from_config(config, attn_implementation=implementation).eval(),
                                   {"input_ids": torch.zeros(2, 12, dtype=torch.long)})
        for implementation in ("sdpa", "eager")
    }  # fmt: skip
    assert counts["sdpa"] == counts["eager"]


@pytest.mark.parametrize("make", [cifar_resnet, partial(har_transformer, 3), llama])
def test_macs_by_module_add_up_to_all_of_them(make):
    model = make()
    stack, inputs = find_blocks(model), example_inputs(model, batch_size=3)
    parts = macs_by_module(model, inputs, stack.names)
    assert sum(parts.values()) == count_macs(model, inputs)
    assert set(stack.names) <= set(parts)
    smaller = remove_blocks(model, [stack.removable[0]])
    gone = parts[stack.names[stack.removable[0]]]
    assert count_macs(model, inputs) - count_macs(smaller, inputs) == gone


def test_energy_is_an_estimate_and_says_how_it_was_made(monkeypatch):
    model = har_transformer(1)
    found = estimate_energy(model, example_inputs(model, batch_size=1), seconds=1.5)
    assert found.joules > 0
    assert found.forwards > 10
    assert found.method.startswith("codecarbon, ")
    assert all("estimate" in name for name in found.figures)
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(RecipeError, match=r"pip install 'har_prune\[energy\]', or leave evaluate.energy out"):
        Energy.check(EvaluateConfig(energy=True), {})


def test_inputs_of_two_batch_sizes_are_refused():
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        count_macs(har_transformer(1), {"input_values": torch.zeros(2, 32, 6), "attention_mask": torch.ones(3, 32)})


def test_counting_leaves_the_model_as_it_was():
    model = resnet_basic().train()
    count_macs(model, example_inputs(model))
    measure_latency(model, example_inputs(model), warmup=0, repeats=2)
    assert model.training


def test_latency_says_what_it_measured():
    model = har_transformer(1)
    latency = measure_latency(model, example_inputs(model, batch_size=1), repeats=5)
    assert 0 < latency.median_ms <= latency.p90_ms
    assert (latency.batch, latency.device, latency.dtype) == (1, "cpu", "float32")
    assert latency.threads == torch.get_num_threads()
    assert latency.speedup is None


def test_two_networks_take_turns_on_the_threads_that_were_asked_for():
    order = []
    small, large = har_transformer(1), har_transformer(2)
    for name, model in (("small", small), ("large", large)):
        model.register_forward_pre_hook(lambda *_, name=name: order.append((name, torch.get_num_threads())))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        latency = measure_latency(
            small, example_inputs(small, batch_size=1), original=large, threads=1, warmup=1, repeats=3
        )
        assert torch.get_num_threads() == 2, "the user's own number comes back"
    finally:
        torch.set_num_threads(threads)
    assert order == [("small", 1), ("large", 1)] * 4
    assert latency.threads == 1
    assert latency.speedup == pytest.approx(latency.original_ms / latency.median_ms)


def test_a_spread_that_leaves_no_meaning_is_marked():
    steady, busy = (Latency(0.7, p90, 1, 1, "cpu", "float32", 1.4) for p90 in (0.8, 40.0))
    assert (latency_text(steady), latency_text(busy)) == ("0.70 (0.80)", "0.70? (40.00)")
    assert steady.is_steady
    assert not busy.is_steady


def test_the_cost_of_a_network(tmp_path):
    model = har_transformer(2)
    inputs = example_inputs(model, batch_size=1)
    cost = measure_cost(model, inputs)
    assert (cost.macs, cost.parameters) == (count_macs(model, inputs), model.num_parameters())
    model.save_pretrained(tmp_path)
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    assert 0 < on_disk - cost.size_bytes < 20_000, "all but the header"
    assert cost.latency.threads == 1, "a small network on one thread"
    assert cost.latency.original_ms == cost.latency.median_ms
    assert measure_cost(model, inputs, latency=False).latency is None
    tied = llama(tie_word_embeddings=True)
    assert measure_cost(tied, example_inputs(tied, 1)).size_bytes == 4 * tied.num_parameters()


def test_activations_are_counted_while_they_live():
    """A chain of layers holds the input and the output of one at a time; keeping all of them shows."""
    width, depth = 64, 5
    chain = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))

    class Model(nn.Module):
        device = torch.device("cpu")

        def __init__(self, keeps):
            super().__init__()
            self.layers, self.keeps = chain, keeps

        def forward(self, values):
            kept = []
            for layer in self.layers:
                values = layer(values)
                kept.append(values if self.keeps else None)
            return values

    inputs = {"values": torch.zeros(1, width)}
    assert peak_activation_bytes(Model(False), inputs) == 2 * 4 * width
    assert peak_activation_bytes(Model(True), inputs) == depth * 4 * width


def test_the_metric_loads_from_the_package_and_agrees_with_scikit_learn(root):
    references, predictions = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    metric = evaluate.load(str(root / "har_prune" / "evaluation" / "har_classification.py"))
    scores = metric.compute(references=references, predictions=predictions, label_names=["sit", "walk", "run"])
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert scores["per_class"]["walk"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    reserved = load_metric().compute(references=[0, 1], predictions=[0, 0], label_names=["accuracy", "macro avg"])
    assert reserved["per_class"]["accuracy"] == {
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    absent = load_metric().compute(references=[0, 0], predictions=[0, 2])
    assert absent["macro_f1"] == pytest.approx(2 / 3), "classes nobody performed do not count"


def test_quality_counts_every_example_once():
    model = har_transformer(1)
    batches = [{**example_inputs(model, size, seed=size), "labels": torch.arange(size) % 3} for size in (5, 3)]
    quality = evaluate_model(model, batches)
    with torch.no_grad():
        logits = torch.cat([model(batch["input_values"]).logits for batch in batches])
    labels = torch.cat([batch["labels"] for batch in batches])
    assert quality.samples == 8
    assert quality.accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert quality.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert len(find_blocks(model)) == 1


def test_subjects_and_trials_are_counted_by_themselves():
    data = LabelledData(
        "sensor", torch.randn(7, 8, 3).numpy(), np.array([0, 0, 0, 1, 1, 1, 1]), ["a", "b"], np.array(["all"] * 7),
        np.array(["s1", "s1", "s1", "s1", "s2", "s2", "s2"]), {"sampling_rate_hz": 10},
        np.array(["t1", "t1", "t1", "t1", "t2", "t2", "t2"]),
    )  # fmt: skip
    inputs = SensorInputs(HarFeatureExtractor(num_channels=3, window_size=8, sampling_rate_hz=10), 10)
    answers = iter([[0, 1, 0], [0, 1, 0], [0]])  # right, wrong, right; wrong, right, wrong; wrong

    class Answers(torch.nn.Module):
        config = SimpleNamespace(id2label={0: "a", 1: "b"}, num_labels=2, architectures=["X"])
        device = torch.device("cpu")

        def forward(self, input_values):
            return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.tensor(next(answers)), 2).float())

    with mock.patch("har_prune.evaluation.metrics.is_language_model", return_value=False):
        found = evaluate_model(Answers(), make_loader(data, range(7), inputs, 3))
        answers = iter([[0, 1, 0], [0, 1, 0], [0]])
        numbered = replace(data, trials=np.full(7, "1"))  # by each subject anew
        assert evaluate_model(Answers(), make_loader(numbered, range(7), inputs, 3)).trial_accuracy == 1 / 3
    assert found.per_group == {
        "s1": {"accuracy": 0.5, "samples": 4}, "s2": {"accuracy": pytest.approx(1 / 3), "samples": 3}
    }  # fmt: skip
    # t1 holds two activities: two of three windows of the first are right, the one of the second is wrong.
    assert found.trial_accuracy == pytest.approx(1 / 3)
    answers = iter([[0, 1], [0, 1]])  # a tie in both trials, whose labels are the lower and the higher number
    tied = replace(data, labels=np.array([0, 0, 1, 1, 1, 1, 1]), trials=np.array([*"aabbbbb"]))
    with mock.patch("har_prune.evaluation.metrics.is_language_model", return_value=False):
        assert evaluate_model(Answers(), make_loader(tied, range(4), inputs, 2)).trial_accuracy == 0.5
