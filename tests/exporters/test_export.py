"""Exports, by their own runtimes."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from console import short_run
from families import TOKENS, WIDTHS, cifar_resnet, classifier, har_resnet, har_transformer, vit
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    MobileViTImageProcessor,
    ViTImageProcessor,
)
from typer.testing import CliRunner

from har_prune import HarFeatureExtractor, export_model, find_widths, remove_blocks, remove_units
from har_prune.commands.app import app
from har_prune.errors import DataError, ExportError, OutputFolderError
from har_prune.exporters import export
from har_prune.exporters.deployed import deployed, raw_inputs
from har_prune.exporters.onnx_file import OnnxFormat

UNITS = ["m/s^2"] * 3 + ["rad/s"] * 3
EXTRACTOR = HarFeatureExtractor(
    num_channels=6, sampling_rate_hz=50.0, window_size=32, channel_mean=[0.1, 0.2, 9.8, 0, 0, 0],
    channel_std=[1.0, 2.0, 3.0, 0.5, 0.5, 0.5], channel_names=list("abcdef"), channel_units=UNITS,
)  # fmt: skip
IMAGES = ViTImageProcessor(size={"height": 16, "width": 16})


def _narrowed():
    model = remove_blocks(har_resnet(), [1, 4])
    return remove_units(find_widths(model), {0: [1, 2], 3: [0]})


NETWORKS = {
    "pruned and narrowed HAR ResNet": (_narrowed, EXTRACTOR),
    "HAR Transformer with a stem": (
        lambda: har_transformer(2, stem_channels=[8, 12], patch_size=2, patch_stride=2),
        EXTRACTOR,
    ),
    "HAR Transformer with a class token": (lambda: har_transformer(2, pooling="cls"), EXTRACTOR),
    "CIFAR ResNet": (cifar_resnet, IMAGES),
    "ViT": (vit, IMAGES),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_what_the_saved_model_gives(name, tmp_path):
    make, processor = NETWORKS[name]
    torch.manual_seed(0)
    model = make().train()
    found = export_model(model, processor, tmp_path / "onnx")
    assert model.training, "the model comes back as it was"
    assert found.difference <= 1e-4
    record = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert record["size_bytes"] == found.size_bytes == (tmp_path / "onnx" / "model.onnx").stat().st_size
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"model.onnx", "export.json"}
    assert record["facts"]["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    if processor is EXTRACTOR:  # compared on those lengths too, in steps of the stem's stride and between
        assert record["lengths"] == list(found.lengths) == [16, 32]
        assert {"the shortest", "in between"} <= set(found.cases)
    else:
        assert found.lengths is None


def test_texts_are_exported_too(tmp_path):
    model = classifier(BertForSequenceClassification, num_hidden_layers=2, **WIDTHS, **TOKENS)
    found = export_model(model, SimpleNamespace(pad_token="[PAD]"), tmp_path / "onnx")
    assert found.difference <= 1e-4
    assert found.lengths is not None
    assert found.lengths[0] == 2


def test_a_network_of_one_length_is_exported_with_that(tmp_path):
    model = har_transformer(2, patch_size=2, patch_stride=2)
    norm = getattr(model, model.base_model_prefix).norm
    norm.register_forward_hook(lambda module, args, states: states.reshape(-1, 16, states.shape[2]))
    found = export_model(model, EXTRACTOR, tmp_path / "onnx")
    assert found.lengths is None
    assert "the shortest" not in found.cases


def test_executorch_gives_the_same(tmp_path):
    pytest.importorskip("executorch")  # no part of the test environment: its torchao talks whenever transformers loads
    torch.manual_seed(0)
    model = _narrowed()
    found = export_model(model, EXTRACTOR, tmp_path / "pte", "executorch")
    assert found.file == "model.pte"
    run = export.format_of("executorch").load(tmp_path / "pte" / "model.pte")
    export_model(model, EXTRACTOR, tmp_path / "onnx")
    onnx = export.format_of("onnx").load(tmp_path / "onnx" / "model.onnx")
    inputs = {"windows": np.random.default_rng(0).normal(size=(3, 32, 6)).astype(np.float32)}
    inputs["mask"] = np.ones((3, 32), np.float32)
    for mine, other in zip(run(inputs), onnx(inputs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_raw_windows_give_what_the_extractor_and_the_model_give(tmp_path):
    """The file against the saved model's own preparation, which it never saw."""
    model = _narrowed().eval()
    export_model(model, EXTRACTOR, tmp_path / "onnx")
    run = export.format_of("onnx").load(tmp_path / "onnx" / "model.onnx")
    recording = np.random.default_rng(1).normal(size=(20, 6)) * 3 + 1
    features = EXTRACTOR(recording, return_tensors="pt")
    with torch.no_grad():
        expected = model(**features).logits.numpy()
    windows, mask = np.full((1, 32, 6), np.nan, np.float32), np.zeros((1, 32), np.float32)
    windows[0, :20], mask[0, :20] = recording, 1
    logits, probabilities = run({"windows": windows, "mask": mask})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-6)
    back = raw_inputs(dict(features), EXTRACTOR)
    np.testing.assert_allclose(back["windows"][0, :20].numpy(), recording, atol=1e-5)


def test_an_export_that_differs_leaves_nothing(tmp_path, monkeypatch):
    load = OnnxFormat.load

    def wrong(self, path):
        run = load(self, path)
        return lambda inputs: (run(inputs)[0] + 1e-3, run(inputs)[1])

    monkeypatch.setattr(OnnxFormat, "load", wrong)
    with pytest.raises(ExportError, match=r"differs from the saved model by 1\.\de-03.*nothing was kept"):
        export_model(_narrowed(), EXTRACTOR, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_message(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("b")
    with pytest.raises(OutputFolderError, match="not empty"):
        export_model(_narrowed(), EXTRACTOR, tmp_path / "full")
    with pytest.raises(ExportError, match="choose onnx or executorch"):
        export_model(_narrowed(), EXTRACTOR, tmp_path / "x", "tflite")
    with pytest.raises(ExportError, match="is no classifier"):
        export_model(har_resnet().har_resnet, EXTRACTOR, tmp_path / "x")
    for hop_s in (float("nan"), 0.0, 10.0):
        with pytest.raises(DataError, match="at least a sample"):
            export_model(_narrowed(), EXTRACTOR, tmp_path / "x", hop_s=hop_s)
    turned = MobileViTImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    with pytest.raises(ExportError, match="does more to an image than scale it and normalise it once"):
        deployed(vit(), turned)
    with pytest.raises(ExportError, match="no feature extractor, image processor or tokenizer"):
        export_model(_narrowed(), None, tmp_path / "x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'har_prune\[onnx\]'"):
        export_model(_narrowed(), EXTRACTOR, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def _windows(count, seed):
    generator = np.random.default_rng(seed)
    windows = generator.normal(size=(count, 32, 6)) * EXTRACTOR.channel_std + EXTRACTOR.channel_mean
    return {"windows": torch.tensor(windows, dtype=torch.float32), "mask": torch.ones(count, 32)}


@pytest.mark.parametrize("format", export.FORMATS)
def test_eight_bits_are_kept_while_they_lose_little(format, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    torch.manual_seed(0)
    model = har_resnet().eval()
    examples = _windows(64, 1)
    with torch.no_grad():
        features = (examples["windows"] - torch.tensor(EXTRACTOR.channel_mean)) / torch.tensor(EXTRACTOR.channel_std)
        labels = model(input_values=features.float()).logits.argmax(-1)
    asked = export.Quantization(_windows(64, 2), (examples, labels), max_drop=0.1)
    found = export_model(model, EXTRACTOR, tmp_path / "int8", format, int8=asked)
    assert found.accuracy == 1.0
    assert found.lengths is None, "what 8 bits cost was measured on whole windows"
    assert 0.9 <= found.int8_accuracy <= 1.0
    whole = export_model(model, EXTRACTOR, tmp_path / "float32", format)
    assert whole.int8_accuracy is None
    assert found.size_bytes < whole.size_bytes
    runs = [export.format_of(format).load(tmp_path / name / found.file) for name in ("int8", "float32")]
    one, other = (run({name: value.numpy() for name, value in examples.items()})[0] for run in runs)
    assert 0 < np.abs(one - other).max() < 0.5, "it computes in other numbers, and nearly the same"
    assert found.float32_difference <= 1e-4 < found.difference, "what is told is of the file that is kept"
    record = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert record["difference"] == max(record["cases"].values()) == found.difference
    assert record["sha256"] == hashlib.sha256((tmp_path / "int8" / found.file).read_bytes()).hexdigest()
    swapped = export.Quantization(asked.calibration, (examples, labels), max_drop=-0.01)  # it would have to gain
    with pytest.raises(ExportError, match="in 8-bit integers the accuracy falls"):
        export_model(model, EXTRACTOR, tmp_path / "lost", format, int8=swapped)
    assert not (tmp_path / "lost").exists()


def test_examples_that_judge_an_export_are_drawn(tmp_path, monkeypatch):
    """The first windows of a subject are one activity."""
    run, seen = short_run(tmp_path / "run"), {}

    def keep(*_, real, int8, **__):
        seen.update(real=real, int8=int8)
        raise ExportError("enough")

    monkeypatch.setattr(export, "export_model", keep)
    given = [
        "export",
        str(run / "pruned"),
        "--int8",
        "--data",
        "synthetic",
        "--test-subject",
        "s10",
        "--samples",
        "24",
    ]
    assert "enough" in CliRunner().invoke(app, [*given, "--trust-remote-code"]).output
    inputs, labels = seen["int8"].evaluation
    assert len(labels) == len(inputs["windows"]) == len(seen["int8"].calibration["windows"]) == 24
    assert len(set(labels.tolist())) > 2
    assert torch.equal(seen["real"][0]["windows"], inputs["windows"])


def test_a_consumer_needs_onnxruntime_and_numpy_alone(root, tmp_path):
    """The example of docs/guides/export.md, where no other package can be imported."""
    (code,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "guides" / "export.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 30
    export_model(har_resnet(num_labels=3), EXTRACTOR, tmp_path / "runs" / "quickstart" / "onnx", hop_s=0.2)
    np.save(tmp_path / "recording.npy", np.random.default_rng(0).normal(size=(72, 6)))
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("numpy", "numpy.libs", "onnxruntime", "google", "flatbuffers", "packaging"):
        found = Path(find_spec("numpy").origin).parent.parent / name
        if found.exists():
            (packages / name).symlink_to(found)
    program = f"import sys; sys.path.append({str(packages)!r})\n{code}\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        check=False, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.strip().splitlines()
    assert [line.split()[0] for line in lines] == ["0.0", "0.2", "0.4", "0.6", "0.8"]
    assert all(line.split()[2].startswith("LABEL_") for line in lines)
    assert not list(tmp_path.glob(".cache/Microsoft*")), "no telemetry"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return short_run(tmp_path_factory.mktemp("run") / "out")


def test_the_command_exports_a_run(run_folder, tmp_path):
    done = CliRunner().invoke(
        app, ["export", str(run_folder / "pruned"), "--output", str(tmp_path / "onnx"), "--data", "synthetic",
              "--test-subject", "s10", "--samples", "16"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert record["cases"]["real 0"] <= 1e-4
    assert record["facts"]["units"] == ["m/s^2"] * 3 + ["rad/s"] * 3
    small = CliRunner().invoke(
        app, ["export", str(run_folder / "pruned"), "--output", str(tmp_path / "int8"), "--data", "synthetic",
              "--test-subject", "s10", "--samples", "64", "--int8", "--max-drop", "1"],
    )  # fmt: skip
    assert small.exit_code == 0, small.output
    assert "in 8-bit integers: accuracy" in small.output
    alone = CliRunner().invoke(app, ["export", str(run_folder / "pruned"), "--int8"])
    assert (alone.exit_code, "--int8 needs --data" in alone.output) == (2, True)
    again = CliRunner().invoke(app, ["export", str(run_folder / "pruned"), "--output", str(tmp_path / "onnx")])
    assert again.exit_code == 2
    assert "not empty" in again.output
    assert CliRunner().invoke(app, ["export", str(tmp_path / "none")]).exit_code == 2
    assert CliRunner().invoke(app, ["export", "x", "--format", "tflite"]).exit_code == 2


def test_classes_that_the_data_lack_stay_in_the_file(run_folder, tmp_path):
    """One more, in front of the others: labels of the data are other places of the head then."""
    model = AutoModelForSequenceClassification.from_pretrained(run_folder / "pruned", trust_remote_code=True)
    names, head = list(model.config.id2label.values()), model.classifier
    model.classifier = torch.nn.Linear(head.in_features, len(names) + 1)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.cat([torch.zeros_like(head.weight[:1]), head.weight]))
        model.classifier.bias.copy_(torch.cat([torch.tensor([-100.0]), head.bias]))
    model.config.id2label = dict(enumerate(["dancing", *names]))
    model.config.label2id = {name: index for index, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "wider")
    shutil.copy(run_folder / "pruned" / "preprocessor_config.json", tmp_path / "wider")
    records = []
    for checkpoint, out in ((run_folder / "pruned", "whole"), (tmp_path / "wider", "more")):
        options = ["--data", "synthetic", "--test-subject", "s10", "--samples", "64", "--int8", "--max-drop", "1"]
        done = CliRunner().invoke(app, ["export", str(checkpoint), "--output", str(tmp_path / out), *options])
        assert done.exit_code == 0, done.output
        assert "leave its head" not in done.output
        records.append(json.loads((tmp_path / out / "export.json").read_text()))
    assert records[1]["facts"]["labels"] == ["dancing", *names]
    assert records[1]["accuracy"] == records[0]["accuracy"]


def test_a_file_that_its_runtime_cannot_run_is_one_message(tmp_path, monkeypatch):
    def load(self, path):
        def run(arrays):
            raise ValueError("Got invalid dimensions")

        return run

    monkeypatch.setattr(OnnxFormat, "load", load)
    with pytest.raises(ExportError, match=r"own runtime cannot run it.*Got invalid dimensions"):
        export_model(har_transformer(2), EXTRACTOR, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
