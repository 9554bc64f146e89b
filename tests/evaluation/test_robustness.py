import colorsys
import hashlib
import io

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as Picture
from families import cifar_resnet, har_transformer
from PIL import Image
from transformers import ViTImageProcessor

from har_prune import HarFeatureExtractor
from har_prune.data.batches import ImageInputs, SensorInputs, make_loader
from har_prune.data.load import LabelledData
from har_prune.errors import DataError, DivergedError
from har_prune.evaluation.config import RobustnessConfig
from har_prune.evaluation.metrics import calibration_error, evaluate_model
from har_prune.evaluation.robustness import registry
from har_prune.evaluation.robustness.attacks import ATTACKS, EPSILONS, PixelScale
from har_prune.evaluation.robustness.measure import Robustness, corruption_error, measure_robustness
from har_prune.evaluation.robustness.registry import Corruption, Sensor, corruptions_for, register_corruption

IMAGES = [c.name for group in ("corruptions", "extra_corruptions") for c in corruptions_for("image", group)]
SENSORS = [c.name for c in corruptions_for("sensor", "corruptions")]
SENSOR = Sensor(50.0, [f"{kind}_{axis}" for kind in ("acc", "gyro") for axis in "xyz"], ["m/s^2"] * 3 + ["rad/s"] * 3)


# Their published levels change more than one thing; the next is not simply further from the clean image.
CHANGE_IN_KIND = ("glass_blur", "frost_like", "elastic_transform", "pixelate", "saturate", "spatter")


def one(kind, name):
    (found,) = corruptions_for(kind, name)
    return found


def photo(side=32):
    """A smooth scene with edges: noise alone would hide what a blur does."""
    rows, columns = np.mgrid[:side, :side] / side
    image = np.stack([rows, columns, 0.5 + 0.4 * np.sin(9 * rows * columns)], axis=-1)
    image[side // 4 : side // 2, side // 4 : side // 2] = [0.9, 0.2, 0.1]
    return (255 * image).astype(np.uint8)


def window():
    time = np.arange(100)[:, None] / 50
    shape = np.sin(2 * np.pi * time * np.arange(1, 7)) * [3, 2, 1, 1, 0.5, 0.3]
    return (shape + np.array([0, 0, 9.8, 0, 0, 0])).astype(np.float32)


def test_the_fifteen_and_four_of_cifar_10_c_are_there():
    assert len(corruptions_for("image", "corruptions")) == 15
    assert len(corruptions_for("image", "extra_corruptions")) == 4
    assert "frost_like" in IMAGES, "frost without its photographs says so in its name"


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("side", [32, 40])
def test_images_stay_images_and_get_worse(name, side):
    clean, corruption = photo(side), one("image", name)
    far = []
    for severity in corruption.severities:
        made = [corruption.applied(clean, severity, seed=3, row=row) for row in range(8)]
        assert {(each.dtype, each.shape) for each in made} == {(np.dtype(np.uint8), clean.shape)}
        far.append(np.abs(np.stack(made).astype(float) - clean).mean())
    assert np.array_equal(clean, photo(side)), "the clean image is left alone"
    assert far[0] > 0
    if name not in CHANGE_IN_KIND:
        assert far == sorted(far)


# Made once; whoever gets others has other corruptions, and their figures cannot be compared with ours.
DIGESTS = {
    "gaussian_noise": "be56f0f5752a",
    "shot_noise": "f21a21102c55",
    "impulse_noise": "c799f7860deb",
    "defocus_blur": "efd34f545b65",
    "glass_blur": "225f02bf010d",
    "motion_blur": "ffb37559848b",
    "zoom_blur": "330db4a6a05b",
    "snow": "7f52517c22cc",
    "frost_like": "86abcf5d9c77",
    "fog": "26a0d637e927",
    "brightness": "6caefa178b6a",
    "contrast": "ec4ea152b920",
    "elastic_transform": "f8c5a08a6038",
    "pixelate": "74cf21e7e185",
    "jpeg_compression": "4a1e2ab52b18",
    "speckle_noise": "43c2383edce8",
    "gaussian_blur": "60370a16a871",
    "saturate": "5755e078995e",
    "spatter": "3a801c7cac96",
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_corruption_gives_the_same_bytes_on_any_machine(name):
    made = one("image", name).applied(photo(), 3, seed=3, row=7)
    assert hashlib.sha256(made.tobytes()).hexdigest()[:12] == DIGESTS[name]


def test_contrast_brightness_and_jpeg_are_what_their_formulas_say():
    image = photo()
    values = image / 255
    mean = values.mean(axis=(0, 1))
    wanted = np.clip((values - mean) * 0.4 + mean, 0, 1)
    assert np.abs(one("image", "contrast").applied(image, 3, 0, 0) / 255 - wanted).max() <= 1 / 255
    made = one("image", "brightness").applied(image, 5, 0, 0)
    for row, column in ((0, 0), (5, 9), (10, 12), (31, 31)):
        hue, saturation, value = colorsys.rgb_to_hsv(*values[row, column])
        wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3)))
        assert np.abs(made[row, column] / 255 - wanted).max() <= 1 / 255
    made = one("image", "saturate").applied(image, 2, 0, 0)
    hue, saturation, value = colorsys.rgb_to_hsv(*values[10, 12])
    assert np.abs(made[10, 12] / 255 - colorsys.hsv_to_rgb(hue, 0.1 * saturation, value)).max() <= 1 / 255
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=58)
    assert np.array_equal(one("image", "jpeg_compression").applied(image, 3, 0, 0), np.asarray(Image.open(file)))


def test_noise_has_the_published_strength():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = one("image", "gaussian_noise").applied(grey, 5, 0, 0) / 255 - 128 / 255
    assert abs(noise.std() - 0.1) < 0.002
    hit = one("image", "impulse_noise").applied(grey, 5, 0, 0) != 128
    assert abs(hit.mean() - 0.07) < 0.005


@pytest.mark.parametrize("name", SENSORS)
def test_windows_stay_windows(name):
    clean, corruption = window(), one("sensor", name)
    for severity in corruption.severities:
        made = corruption.applied(clean, severity, 3, 7, SENSOR)
        assert (made.dtype, made.shape) == (np.float32, clean.shape)
        assert np.isfinite(made).all()
        assert not np.array_equal(made, clean)
    assert np.array_equal(clean, window())


def test_sensors_are_spoiled_as_physics_would():
    clean = window()
    turned = one("sensor", "mounting_rotation").applied(clean, 5, 0, 0, SENSOR)
    for triad in (slice(0, 3), slice(3, 6)):
        lengths = np.linalg.norm(clean[:, triad], axis=1)
        assert np.allclose(np.linalg.norm(turned[:, triad], axis=1), lengths, rtol=1e-5)
    angles = np.arccos(np.clip((turned[:, :3] * clean[:, :3]).sum(1) / (clean[:, :3] ** 2).sum(1), -1, 1))
    assert np.degrees(angles.max()) <= 90.01
    mirrored = one("sensor", "other_wrist").applied(clean, 1, 0, 0, SENSOR)
    assert np.array_equal(mirrored, clean * np.float32([-1, 1, 1, 1, -1, -1]))
    lost = one("sensor", "channel_loss").applied(clean, 5, 0, 0, SENSOR)
    assert (lost == 0).all(axis=0).sum() == 3
    slow = one("sensor", "low_rate").applied(clean, 1, 0, 0, SENSOR)
    assert np.abs(slow[:, 0] - clean[:, 0]).max() < 0.2, "a slow sine survives four fifths of its rate"
    noise = one("sensor", "sensor_noise").applied(np.zeros((5000, 6), np.float32), 4, 0, 0, SENSOR)
    assert np.allclose(noise.std(axis=0), [2, 2, 2, 0.4, 0.4, 0.4], rtol=0.05)


def test_texts_lose_letters_and_words():
    text = "the quick brown fox jumps over the lazy dog " * 20
    assert one("text", "character_noise").applied(text, 1, 0, 0) != text
    kept = one("text", "dropped_words").applied(text, 5, 0, 0).split()
    assert 70 < len(kept) < 110
    assert set(kept) <= set(text.split())
    assert one("text", "dropped_words").applied("one", 5, 0, 0) == "one"
    assert one("text", "dropped_words").applied("", 5, 0, 0) == ""


def images(count=24, seed=0):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    return LabelledData("image", values, np.arange(count) % 3, ["a", "b", "c"], np.full(count, "test"))


def image_loader(data=None, rows=None, batch_size=8, **processor):
    data = images() if data is None else data
    preprocess = ImageInputs(ViTImageProcessor(size={"height": 16, "width": 16}, **processor))
    return make_loader(data, np.arange(len(data)) if rows is None else rows, preprocess, batch_size)


def test_an_example_is_spoiled_the_same_way_in_any_batch():
    data = images()
    seen, corruption = {}, one("image", "shot_noise")
    for rows, size in ((np.arange(24), 8), (np.array([5, 3, 20]), 2)):
        preprocess = ImageInputs(ViTImageProcessor(size={"height": 16, "width": 16}))
        loader = make_loader(data, rows, preprocess, size, change=lambda x, row: corruption.applied(x, 2, 9, row))
        values = torch.cat([batch["pixel_values"] for batch in loader])
        seen[size] = dict(zip(rows.tolist(), values, strict=True))
    for row, value in seen[2].items():
        assert torch.equal(value, seen[8][row])


def test_robustness_equals_evaluating_spoiled_examples_by_hand():
    model, data = cifar_resnet(), images()
    config = RobustnessConfig(names=["contrast", "fgsm"], severities=[2, 5], seed=4)
    found = measure_robustness(model, image_loader(data), config)
    for place, severity in enumerate((2, 5)):
        spoiled = np.stack([
            one("image", "contrast").applied(image.transpose(1, 2, 0), severity, 4, row).transpose(2, 0, 1)
            for row, image in enumerate(data.values)
        ])  # fmt: skip
        by_hand = LabelledData("image", spoiled, data.labels, data.label_names, data.splits)
        metrics = evaluate_model(model, image_loader(by_hand))
        assert found.results["contrast"]["accuracy"][place] == metrics.accuracy
        assert found.results["contrast"]["calibration_error"][place] == pytest.approx(metrics.calibration_error)
    assert found.accuracy == evaluate_model(model, image_loader(data)).accuracy
    assert found.results["fgsm"]["accuracy"][1] <= found.accuracy
    again = measure_robustness(model, image_loader(data, batch_size=5), config)
    assert again.results["contrast"]["accuracy"] == found.results["contrast"]["accuracy"]
    assert found == Robustness(**{name: getattr(found, name) for name in Robustness.__dataclass_fields__})


def test_an_attack_is_the_sign_of_the_gradient_within_its_reach():
    model = cifar_resnet().double().eval()
    loader = image_loader(do_normalize=True, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3])
    batch = next(iter(loader))
    batch["pixel_values"] = batch["pixel_values"].double()
    scale, epsilon = PixelScale(*loader.preprocess.limits), EPSILONS[3]
    made = ATTACKS["fgsm"].changed(model, batch, epsilon, scale, seed=0)
    assert all(parameter.grad is None for parameter in model.parameters()), "an attack is no training"
    values = batch["pixel_values"].clone().requires_grad_()
    torch.nn.functional.cross_entropy(model(pixel_values=values).logits, batch["labels"], reduction="sum").backward()
    std = torch.tensor([0.2, 0.25, 0.3], dtype=torch.float64)[:, None, None]
    mean = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)[:, None, None]
    wanted = torch.clamp((values.detach() + epsilon / std * values.grad.sign()) * std + mean, 0, 1)
    torch.testing.assert_close(made * std + mean, wanted, rtol=0, atol=1e-6)

    def loss(pixels):
        return torch.nn.functional.cross_entropy(model(pixel_values=pixels).logits, batch["labels"]).item()

    stronger = ATTACKS["pgd"].changed(model, batch, epsilon, scale, seed=0)
    assert loss(batch["pixel_values"]) < loss(made) <= loss(stronger) * 1.02
    brightness = stronger * std + mean
    assert brightness.min() > -1e-6
    assert brightness.max() < 1 + 1e-6
    assert (brightness - (batch["pixel_values"] * std + mean)).abs().max() <= epsilon + 1e-6


def test_pgd_starts_the_same_whatever_the_batch():
    model, config = cifar_resnet(), RobustnessConfig(names=["pgd"], severities=[4])
    first = measure_robustness(model, image_loader(), config)
    assert first.results == measure_robustness(model, image_loader(batch_size=24), config).results


def test_windows_are_measured_in_physical_units():
    values = np.random.default_rng(0).normal(size=(12, 32, 6)).astype(np.float32)
    facts = {"sampling_rate_hz": 50.0, "channels": SENSOR.channels, "units": SENSOR.units}
    data = LabelledData(
        "sensor", values, np.arange(12) % 3, ["a", "b", "c"], np.full(12, "train"), np.full(12, "s1"), facts
    )
    extractor = HarFeatureExtractor(num_channels=6, window_size=32, sampling_rate_hz=50.0)
    loader = make_loader(data, np.arange(12), SensorInputs(extractor, 50.0), 4)
    found = measure_robustness(har_transformer(2), loader, RobustnessConfig(names=["corruptions"], severities=[1, 5]))
    assert list(found.results) == SENSORS
    assert found.results["other_wrist"]["severities"] == [1]
    assert found.results["sensor_noise"]["severities"] == [1, 5]
    with pytest.raises(DataError, match="fgsm attacks images, and these are sensor data"):
        measure_robustness(har_transformer(2), loader, RobustnessConfig(names=["fgsm"]))


def test_the_published_arrays_and_other_data_sets_are_read(tmp_path):
    model, data = cifar_resnet(), images()
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    every = np.concatenate([data.values.transpose(0, 2, 3, 1)] * 5)
    every[24:48] = 0
    np.save(folder / "fog.npy", every)
    np.save(folder / "labels.npy", np.tile(data.labels, 5).astype(np.uint8))
    config = RobustnessConfig(names=[f"npy:{folder}"], severities=[1, 2])
    row = measure_robustness(model, image_loader(data), config).results["fog (published)"]
    assert row["accuracy"][0] == evaluate_model(model, image_loader(data)).accuracy
    assert row["severities"] == [1, 2]
    np.save(folder / "snow.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"snow\.npy is no plain array, or no whole one .*pickles, are refused"):
        measure_robustness(model, image_loader(data), config)
    with pytest.raises(DataError, match=r"labels\.npy does not exist"):
        measure_robustness(model, image_loader(data), RobustnessConfig(names=[f"npy:{tmp_path}"]))


def test_another_data_set_is_read_with_its_own_order_of_classes(tmp_path):
    data, features = images(), Features({"image": Picture(), "label": ClassLabel(names=["c", "a", "b"])})
    order = [1, 2, 0]  # of a, b and c there
    rows = {"image": list(data.values.transpose(0, 2, 3, 1)), "label": [order[label] for label in data.labels]}
    (tmp_path / "other").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "other" / "test-00000-of-00001.parquet")
    found = measure_robustness(cifar_resnet(), image_loader(data), RobustnessConfig(names=[f"data:{tmp_path}/other"]))
    ((name, row),) = found.results.items()
    assert name == "data:other", "no path of somebody's disk"
    assert (row["severities"], row["accuracy"]) == ([0], [found.accuracy])
    features["label"] = ClassLabel(names=["x", "y", "z"])
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "other" / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"has the classes x, y, z, and the network tells a, b, c apart"):
        measure_robustness(cifar_resnet(), image_loader(data), RobustnessConfig(names=[f"data:{tmp_path}/other"]))


def test_classes_that_are_numbers_are_told_apart_by_their_numbers(tmp_path):
    names = [str(number) for number in range(12)]
    data = images(24)
    own = LabelledData("image", data.values, np.arange(24) % 12, [f"class {name}" for name in names], data.splits)
    features = Features({"image": Picture(), "label": ClassLabel(names=sorted(names))})  # 0, 1, 10, 11, 2, ...
    rows = {"image": list(data.values.transpose(0, 2, 3, 1)), "label": [str(label) for label in own.labels]}
    (tmp_path / "other").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "other" / "test-00000-of-00001.parquet")
    model = cifar_resnet(num_labels=12)
    found = measure_robustness(model, image_loader(own), RobustnessConfig(names=[f"data:{tmp_path}/other"]))
    assert found.results["data:other"]["accuracy"] == [found.accuracy]


def test_outputs_that_are_not_finite_are_said_so():
    model = cifar_resnet()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    assert evaluate_model(model, image_loader()).calibration_error is None
    with pytest.raises(DivergedError, match="outputs on the examples as they are are not finite"):
        measure_robustness(model, image_loader(), RobustnessConfig(names=["fog"]))


def test_a_channel_without_axes_is_left_where_it_is():
    sensor = Sensor(50.0, ["heart_rate", *SENSOR.channels], ["1/min", *SENSOR.units])
    clean = np.concatenate([np.full((100, 1), 60, np.float32), window()], axis=1)
    for name in ("mounting_rotation", "other_wrist"):
        made = one("sensor", name).applied(clean, 1, 0, 0, sensor)
        assert np.array_equal(made[:, 0], clean[:, 0])
        assert np.array_equal(made[:, 1:], one("sensor", name).applied(window(), 1, 0, 0, SENSOR))
    with pytest.raises(DataError, match="no channels NAME_x, NAME_y, NAME_z are among left, right"):
        one("sensor", "other_wrist").applied(window()[:, :2], 1, 0, 0, Sensor(50.0, ["left", "right"], ["g", "g"]))


def test_what_cannot_be_measured_is_refused_with_what_can():
    model, loader = cifar_resnet(), image_loader()
    for names, message in (
        (["fgo"], r"robustness 'fgo' is unknown\. Did you mean 'fog'\?"),
        (["sensor_noise"], r"corruption 'sensor_noise' is for sensor data, and these are image data"),
        (["fog", "corruptions"], r"asks twice for fog"),
        (["data:/nowhere"], r"data folder /nowhere does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            measure_robustness(model, loader, RobustnessConfig(names=names))
    with pytest.raises(DataError, match=r"made anew from raw examples, and these are a list"):
        measure_robustness(model, list(loader), RobustnessConfig(names=["fog"]))
    with pytest.raises(ValueError, match="from 1 to 5"):
        RobustnessConfig(names=["fog"], severities=[6])


def test_a_corruption_of_ones_own_has_a_name_in_recipes(monkeypatch):
    monkeypatch.setattr(registry, "_CORRUPTIONS", dict(registry._CORRUPTIONS))

    @register_corruption("upside_down", "image", severities=[1], group="mine")
    def upside_down(image, severity, random):
        return image[::-1]

    found = measure_robustness(cifar_resnet(), image_loader(), RobustnessConfig(names=["mine"]))
    assert list(found.results) == ["upside_down"]
    with pytest.raises(ValueError, match="registered already"):
        register_corruption("upside_down", "image")
    with pytest.raises(ValueError, match="corruption 'fog' is registered already"):
        register_corruption("fog", "image")
    with pytest.raises(ValueError, match="mean something else"):
        register_corruption("fgsm", "image")
    with pytest.raises(ValueError, match="none of image, sensor, text"):
        register_corruption("loud", "audio")
    assert isinstance(one("image", "upside_down"), Corruption)


def test_the_corruption_error_is_relative_to_the_original():
    def found(accuracy):
        row = {"sort": "corruption", "severities": [1, 2], "accuracy": accuracy, "calibration_error": [0.0, 0.0]}
        return Robustness("test", 10, 0, 0.9, 0.0, {"fog": row})

    assert corruption_error(found([0.8, 0.6]), found([0.8, 0.6])) == pytest.approx(100)
    assert corruption_error(found([0.9, 0.8]), found([0.8, 0.6])) == pytest.approx(50)
    assert corruption_error(found([0.9, 0.8]), found([1.0, 1.0])) is None


def test_the_calibration_error_equals_a_sum_over_bins():
    generator = np.random.default_rng(0)
    confidence, right = generator.uniform(0.2, 1, 500), generator.random(500) < 0.7
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(confidence, right) == pytest.approx(total)
