import numpy as np
import pytest
import torch
from datasets import load_dataset
from families import cifar_resnet
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoImageProcessor, AutoModelForImageClassification
from typer.testing import CliRunner

from har_prune import CifarResNetConfig, evaluate_model
from har_prune.checkpoints import convert_keras
from har_prune.commands.app import app
from har_prune.data.batches import ImageInputs, make_loader
from har_prune.data.load import load_data
from har_prune.errors import CheckpointError
from har_prune.models.cifar_resnet.modeling_cifar_resnet import SameConv2d


def test_depths_of_the_paper():
    for depth, parameters in ((20, 269_722), (56, 853_018)):  # He et al. 2015, table 6: 0.27 M and 0.85 M
        blocks = (depth - 2) // 6
        model = cifar_resnet(
            hidden_sizes=[16, 32, 64], depths=[blocks] * 3, num_labels=10, shortcut="zero_pad", image_size=32
        )
        assert model.num_parameters() == parameters


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_tensorflows(size, stride):
    """Written out pixel by pixel: TensorFlow puts the odd pixel of padding behind."""
    conv = SameConv2d(1, 1, 3, stride, bias=False)
    image = torch.randn(1, 1, size, size)
    total = max((-(-size // stride) - 1) * stride + 3 - size, 0)
    front, out = total // 2, -(-size // stride)
    expected = torch.zeros(out, out)
    for row in range(out):
        for column in range(out):
            for i in range(3):
                for j in range(3):
                    y, x = row * stride + i - front, column * stride + j - front
                    if 0 <= y < size and 0 <= x < size:
                        expected[row, column] += conv.weight[0, 0, i, j].item() * image[0, 0, y, x]
    assert torch.allclose(conv(image)[0, 0], expected, atol=1e-5)


def test_outputs_and_bad_input():
    model = cifar_resnet(subtract_pixel_mean=True)
    output = model(torch.rand(2, 3, 16, 16), labels=torch.tensor([0, 1]), output_hidden_states=True)
    assert [tuple(h.shape[1:]) for h in output.hidden_states] == [(8, 16, 16), (8, 16, 16), (12, 8, 8), (16, 4, 4)]
    assert output.loss.isfinite()
    with pytest.raises(ValueError, match=r"expected \[batch, 3, H, W\]"):
        model(torch.rand(2, 1, 16, 16))
    for fields, message in (
        ({"depths": [3, 0, 3]}, "each depth at least 1"),
        ({"depths": [3, 3]}, "one entry a stage"),
        ({"padding": "valid"}, "choose 'symmetric' or 'tensorflow'"),
        ({"shortcut": "pool"}, "choose 'projection' or 'zero_pad'"),
    ):
        with pytest.raises(StrictDataclassError, match=message):
            CifarResNetConfig(**fields)


def test_the_converter_refuses_other_files(tmp_path):
    weights, architecture = tmp_path / "a.h5", tmp_path / "a.json"
    mean = np.zeros((32, 32, 3), np.float32)
    with pytest.raises(CheckpointError, match=r"a\.h5 does not exist"):
        convert_keras.convert(weights, architecture, mean)
    weights.write_bytes(b"junk")
    architecture.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        convert_keras.convert(weights, architecture, mean)
    architecture.write_text('{"config": []}')
    with pytest.raises(CheckpointError, match="not the JSON of a Keras functional model"):
        convert_keras.convert(weights, architecture, mean)
    architecture.write_text('{"config": {"layers": []}}')
    with pytest.raises(CheckpointError, match="not an HDF5 file"):
        convert_keras.convert(weights, architecture, mean)


@pytest.fixture(scope="session")
def resnet56(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras") / "resnet56"
    keras = shared / "checkpoints" / "keras_cifar10"
    arguments = ["convert", "--h5", keras / "ResNet56.h5", "--json", keras / "ResNet56.json", "--output", folder]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.data
def test_the_converted_resnet_56_is_as_good_as_published(resnet56, shared):
    data = load_data(str(shared / "data" / "cifar10"))
    model = AutoModelForImageClassification.from_pretrained(resnet56)
    inputs = ImageInputs(AutoImageProcessor.from_pretrained(resnet56))
    test = np.flatnonzero(data.splits == "test")
    quality = evaluate_model(model, make_loader(data, test, inputs, 128))
    assert quality.samples == 10_000
    assert quality.accuracy == pytest.approx(0.9229, abs=0.0005)
    assert data.label_names == list(convert_keras.CIFAR10_LABELS)
    mean = data.values[data.splits == "train"].mean(axis=0, dtype=np.float64) / 255
    assert np.allclose(np.load(convert_keras.CIFAR10_PIXEL_MEAN), mean.transpose(1, 2, 0), atol=1e-6)


@pytest.mark.data
def test_every_keras_depth_converts(shared):
    keras = shared / "checkpoints" / "keras_cifar10"
    mean = np.load(convert_keras.CIFAR10_PIXEL_MEAN)
    model = convert_keras.convert(keras / "ResNet32.h5", keras / "ResNet32.json", mean)
    assert model.config.depths == [5, 5, 5]
    images = load_dataset(str(shared / "data" / "cifar10"), split="test[:200]")
    pixels = torch.stack([torch.from_numpy(np.asarray(row["img"]).copy()) for row in images]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        correct = (model(pixels).logits.argmax(1) == torch.tensor(images["label"][:])).float().mean()
    assert correct > 0.87
    with pytest.raises(CheckpointError, match=r"is it the \.h5 that goes with"):
        convert_keras.convert(keras / "ResNet32.h5", keras / "ResNet56.json", mean)
