import evaluate
import pytest
import torch
from families import cifar_resnet, har_transformer, resnet_basic
from sklearn.metrics import f1_score
from torch import nn
from transformers import BertConfig, BertModel

from har_prune import count_macs, evaluate_model, find_blocks, measure_latency, remove_blocks
from har_prune.blocks.inputs import example_inputs
from har_prune.errors import ShapeError
from har_prune.evaluation import load_metric


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
    stats = measure_latency(model, example_inputs(model, batch_size=1), repeats=5)
    assert stats.batch_size == 1
    assert 0 < stats.median_ms <= stats.p90_ms
    assert stats.threads == torch.get_num_threads()


def test_the_metric_loads_from_the_package_and_agrees_with_scikit_learn(root):
    references, predictions = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    metric = evaluate.load(str(root / "har_prune" / "evaluation" / "har_classification.py"))
    scores = metric.compute(references=references, predictions=predictions, label_names=["sit", "walk", "run"])
    assert scores["accuracy"] == pytest.approx(4 / 6)
    assert scores["macro_f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert scores["per_class"]["walk"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
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
