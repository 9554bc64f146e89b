import json

import pytest
from transformers import AutoFeatureExtractor
from typer.testing import CliRunner

from har_prune import HarFeatureExtractor, HarTransformerConfig, HarTransformerForSequenceClassification, save_pruned
from har_prune.commands.app import app
from har_prune.data.load import load_data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    data = load_data("synthetic")
    config = HarTransformerConfig(
        num_channels=data.values.shape[2], window_size=data.values.shape[1], hidden_size=16, num_attention_heads=2,
        intermediate_size=16, num_hidden_layers=3, id2label=dict(enumerate(data.label_names)),
    )  # fmt: skip
    extractor = HarFeatureExtractor(
        num_channels=data.values.shape[2], window_size=data.values.shape[1],
        sampling_rate_hz=data.sensor["sampling_rate_hz"],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save_pruned(HarTransformerForSequenceClassification(config).eval(), folder, processor=extractor)
    assert AutoFeatureExtractor.from_pretrained(folder)
    return str(folder)


def _score(checkpoint, *options):
    return CliRunner().invoke(app, ["score", checkpoint, "--data", "synthetic", *options])


def test_score_prints_a_table_and_writes_json_and_a_heat_map(checkpoint, tmp_path):
    out = tmp_path / "scores"
    criteria = ["cka", "block_influence", "taylor", "consensus(cka, taylor)"]
    options = [part for name in criteria for part in ("--criterion", name)]
    result = _score(
        checkpoint, *options, "--test-subject", "s10", "--samples", "64", "--interval", "0.9", "--output", str(out)
    )
    assert result.exit_code == 0, result.output
    assert "Importance of 3 blocks" in result.output
    assert "har_transformer.layers.2" in result.output
    record = json.loads((out / "scores.json").read_text())
    assert list(record["criteria"]) == criteria
    cka = record["criteria"]["cka"]
    assert (cka["samples"], cka["precision"], cka["reference"], cka["estimator"]) == (64, "fp32", "current", "exact")
    assert [block["index"] for block in cka["blocks"]] == [0, 1, 2]
    assert cka["blocks"][0]["interval"][0] <= cka["blocks"][0]["interval"][1]
    assert (out / "scores.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test-subject", "s10", "--criterion", "ckaa"], r"unknown criterion 'ckaa'"),
        (["--test-subject", "nobody"], "test subject 'nobody' is not in the data"),
        ([], "give --test-subject"),
        (["--test-subject", "s10", "--precision", "fp8"], "--precision: Input should be 'fp32' or 'bf16' (got 'fp8')"),
        (["--test-subject", "s10", "--interval", "2"], "--interval: Input should be less than 1"),
        (["--test-subject", "s10", "--representation", "nowhere"], "no module is called 'nowhere'"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(checkpoint, tmp_path, options, message):
    out = tmp_path / "scores"
    result = _score(checkpoint, *options, "--output", str(out))
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not out.exists()
