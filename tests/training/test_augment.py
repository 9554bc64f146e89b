import pytest
import torch

from har_prune.data.batches import Augment, SensorInputs
from har_prune.data.channels import mirror_signs, triads_of
from har_prune.data.transforms import (
    AUGMENTATIONS,
    alternating_flip,
    crop,
    flip,
    jitter,
    rotation,
    scaling,
    time_warp,
)  # fmt: skip
from har_prune.errors import CheckpointError
from har_prune.models.har_transformer import HarFeatureExtractor


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS["sensor"]) - {"mirror"}))
def test_windows_keep_shape_and_change_a_little(name):
    time = torch.arange(64) / 64
    windows = torch.sin(6 * time)[None, :, None].repeat(5, 1, 7) * 3
    changed = AUGMENTATIONS["sensor"][name](windows)
    assert changed.shape == windows.shape
    assert changed.dtype == windows.dtype
    assert 0 < (changed - windows).abs().max() < 3
    assert not torch.equal(changed[0], changed[1]), "each window is changed in its own way"


def test_a_rotation_keeps_lengths_and_turns_all_triads_alike():
    windows = torch.randn(4, 10, 3).repeat(1, 1, 2)
    turned = rotation(windows, max_degrees=40)
    assert torch.allclose(turned[..., :3], turned[..., 3:])
    assert torch.allclose(turned[..., :3].norm(dim=2), windows[..., :3].norm(dim=2), atol=1e-5)
    cosine = torch.cosine_similarity(turned[..., :3], windows[..., :3], dim=2)
    assert cosine.min() >= torch.cos(torch.deg2rad(torch.tensor(40.0))) - 1e-5
    odd = torch.randn(4, 10, 4)
    assert torch.equal(rotation(odd)[..., 3], odd[..., 3])


def test_a_rotation_finds_the_axes_of_a_sensor_by_their_names():
    names, units = ["gyro_z", "acc_x", "acc_y", "acc_z", "pulse"], ["rad/s", *["m/s^2"] * 3, "1/min"]
    triads = triads_of(names, units)
    windows = torch.randn(4, 10, 5)
    torch.manual_seed(0)
    turned = rotation(windows, triads)
    torch.manual_seed(0)
    assert torch.equal(turned[..., 1:4], rotation(windows[..., 1:4]))
    assert torch.equal(turned[..., [0, 4]], windows[..., [0, 4]]), "no gravity leaks into an angular rate"
    assert triads_of(None, None) is None
    with pytest.warns(UserWarning, match="rotation turns nothing: no channels NAME_x"):
        nothing = triads_of(["acc_x", "acc_z"], ["g", "g"])
    assert torch.equal(rotation(windows, nothing), windows)


def test_what_pads_a_short_window_is_no_part_of_its_augmentation():
    inputs = SensorInputs(HarFeatureExtractor(num_channels=3, window_size=48, sampling_rate_hz=10), 10)
    batch = {**inputs(torch.full((6, 30, 3), 7.0)), "index": torch.arange(6)}
    changed = Augment(["time_warp"], "sensor", inputs)(batch, 0)["input_values"]
    torch.testing.assert_close(changed[:, :30], torch.full((6, 30, 3), 7.0))
    assert torch.equal(changed[:, 30:], torch.zeros(6, 18, 3))


def test_time_warp_keeps_both_ends_and_the_order():
    ramp = torch.arange(50.0)[None, :, None].repeat(3, 1, 2)
    warped = time_warp(ramp, strength=0.5)
    assert torch.allclose(warped[:, [0, -1]], ramp[:, [0, -1]], atol=1e-4)
    assert (warped.diff(dim=1) > 0).all()


def test_noise_and_gain_have_the_stated_size():
    windows = torch.randn(200, 50, 3) * torch.tensor([1.0, 10.0, 100.0])
    noise = (jitter(windows, share=0.05) - windows).std(dim=(0, 1)) / windows.std(dim=(0, 1))
    assert torch.allclose(noise, torch.full((3,), 0.05), rtol=0.1)
    gain = (scaling(windows, deviation=0.1) / windows)[:, 0]
    assert gain.std() == pytest.approx(0.1, rel=0.15)


def test_crop_and_flip_work_on_bytes_and_each_image_by_itself():
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    images = image.repeat(40, 3, 1, 1)
    cropped = crop(images, padding=2)
    assert cropped.dtype == torch.uint8
    padded = torch.nn.functional.pad(image.float(), [2] * 4, mode="reflect").byte()[0, 0]
    windows = padded.unfold(0, 8, 1).unfold(1, 8, 1).reshape(-1, 8, 8)
    assert all((windows == one[0]).all(dim=(1, 2)).any() for one in cropped)
    assert len({tuple(one.flatten().tolist()) for one in cropped[:, 0]}) > 5
    flipped = flip(images)
    mirrored = (flipped == images.flip(3)).all(dim=(1, 2, 3))
    assert 5 < mirrored.sum() < 35
    assert ((flipped == images).all(dim=(1, 2, 3)) | mirrored).all()


def test_an_alternating_flip_shows_every_image_both_ways_in_two_epochs_running():
    images, index = torch.randn(64, 3, 4, 4), torch.arange(64)
    first, second = (alternating_flip(images, index, epoch) for epoch in (3, 4))
    assert torch.equal(first, second.flip(3))
    begins = (first == images).all(dim=(1, 2, 3))
    assert 16 < begins.sum() < 48
    assert torch.equal(alternating_flip(images[:8], index[:8], 3), first[:8])


def test_the_other_wrist_is_a_reflection_for_every_turn_of_the_hand():
    """Reflecting first and turning the other way gives what turning and reflecting gives, in both kinds of vectors."""
    names = ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]
    signs = torch.from_numpy(mirror_signs(names, ["m/s^2"] * 3 + ["rad/s"] * 3))
    assert signs.tolist() == [1, -1, 1, -1, 1, -1]
    reflection = torch.diag(signs[:3])
    generator = torch.Generator().manual_seed(0)
    rate, arm = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    # What a point at `arm` feels in a turn is rate x (rate x arm): of the mirrored turn it is the mirrored.
    mirrored_rate, mirrored_arm = signs[3:] * rate, reflection @ arm
    felt = torch.linalg.cross(rate, torch.linalg.cross(rate, arm))
    other = torch.linalg.cross(mirrored_rate, torch.linalg.cross(mirrored_rate, mirrored_arm))
    torch.testing.assert_close(other, reflection @ felt)
    torch.testing.assert_close(
        torch.linalg.cross(mirrored_rate, mirrored_arm), reflection @ torch.linalg.cross(rate, arm)
    )
    windows = torch.randn(200, 5, 6)
    found = AUGMENTATIONS["sensor"]["mirror"](windows, signs)
    same = (found == windows).flatten(1).all(1)
    assert 60 < int(same.sum()) < 140
    torch.testing.assert_close(found[~same], windows[~same] * signs.float())
    for wrong in ((["acc"], ["g"]), (["acc_x"], ["uT"]), (None, None)):
        with pytest.raises(CheckpointError, match="mirrored"):
            mirror_signs(*wrong)
