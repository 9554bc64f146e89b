"""A wrong unit is noticed: accelerations are about as long as gravity, and bodies turn only so fast."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from data_prep.errors import PrepError
from data_prep.plausibility import lengths, refuse_implausible, triads
from data_prep.readers import synthetic, uci_har
from data_prep.readers.catalogue import READERS

_MAP = """
sampling_rate_hz: 20
channels:
  acc_x: {column: ax, unit: UNIT}
  acc_y: {column: ay, unit: UNIT}
  acc_z: {column: az, unit: UNIT}
  gyro_x: {column: gx, unit: RATE}
  gyro_y: {column: gy, unit: RATE}
  gyro_z: {column: gz, unit: RATE}
label: {column: activity}
subject: {from_name: "(?P<subject>[a-z]+)"}
"""


@pytest.fixture
def own(prepare, tmp_path):
    """Prepares two minutes: some rows of one activity, the others of another; said to be in these units."""

    def run(sitting, walking, acceleration="m/s^2", rate="rad/s", more="", walks=30):
        (tmp_path / "raw").mkdir(exist_ok=True)
        rows = [f"{sitting},sit"] * 20 * (120 - walks) + [f"{walking},walk"] * 20 * walks
        (tmp_path / "raw" / "anna.csv").write_text("\n".join(["ax,ay,az,gx,gy,gz,activity", *rows]) + "\n")
        (tmp_path / "map.yaml").write_text(_MAP.replace("UNIT", acceleration).replace("RATE", rate) + more)
        return prepare(
            "csv", tmp_path / "raw", tmp_path / "out", "--columns", tmp_path / "map.yaml", "--window-s", "2",
            "--overwrite",
        )  # fmt: skip

    return run


SIT, WALK = "0,0,9.8,0.01,0,0", "3,3,10,1.5,1,1"  # m/s^2, rad/s
SIT_G_DEG, WALK_G_DEG = "0,0,1,1,0,0", "0.3,0.3,1,90,60,60"


@pytest.mark.parametrize(
    ("rows", "right", "declared", "found"),
    [
        ((SIT, WALK), ("m/s^2", "rad/s"), ("g", "rad/s"), "acc: the acceleration is 96"),
        ((SIT, WALK), ("m/s^2", "rad/s"), ("mg", "rad/s"), "acc: the acceleration is 0.096"),
        ((SIT, WALK), ("m/s^2", "rad/s"), ("m/s^2", "deg/s"), "gyro: the angular rate is 0.03"),
        ((SIT_G_DEG, WALK_G_DEG), ("g", "deg/s"), ("m/s^2", "deg/s"), "acc: the acceleration is 1"),
        ((SIT_G_DEG, WALK_G_DEG), ("g", "deg/s"), ("g", "rad/s"), "gyro: the angular rate is 12"),
    ],
)
def test_a_wrong_unit_is_noticed_and_the_advice_helps(own, rows, right, declared, found):
    code, said = own(*rows, *declared)
    assert (code, found in said) == (2, True), said
    true, wrong = next((a, b) for a, b in zip(right, declared, strict=True) if a != b)
    assert f"were data that are in {true} declared as {wrong}" in said
    code, said = own(*rows, *right)
    assert code == 0, said


def test_acceleration_without_gravity_is_read_when_one_says_so(own):
    sitting, walking = "0,0,0.3,0.01,0,0", "3,3,1,1.5,1,1"
    code, said = own(sitting, walking)
    assert (code, "acc: the acceleration is 0.3" in said, "unchecked: [acc]" in said) == (2, True, True), said
    assert "No unit known here explains it" in said
    code, said = own(sitting, walking, more="unchecked: [acc]\n")
    assert code == 0, said
    code, said = own(sitting, walking, more="unchecked: [body]\n")
    assert (code, "unchecked: no channels body_x, body_y, body_z; choose from acc, gyro" in said) == (2, True), said


def test_a_minority_of_windows_may_be_anything(own):
    code, said = own(SIT, "0,0,0,1.5,1,1", walks=50)  # free fall
    assert code == 0, said


def test_axes_are_found_whatever_they_are_called():
    def found(*channels, units=("m/s^2",)):
        return triads(replace(synthetic.INFO, channels=channels, units=units * len(channels)))

    assert found("t_x", "wristAccZ", "wristAccX", "wristAccY") == {"wristAcc": [2, 3, 1]}
    assert found("x", "y", "z", "ax", "ay") == {"xyz": [0, 1, 2]}
    assert found("max", "acc_x", "acc_y") == {}


def _of_anna(window):
    return [(("anna", "1"), *one) for one in lengths(window, triads(synthetic.INFO))]


def test_one_subject_in_another_unit_is_noticed(own, tmp_path):
    """Four are right, so the median of all windows is; one is in g."""
    code, said = own(SIT, WALK)
    assert code == 0, said
    right = (tmp_path / "raw" / "anna.csv").read_text()
    for name in ("ben", "carl", "dora"):
        (tmp_path / "raw" / f"{name}.csv").write_text(right.replace("9.8", f"9.8{'0' * len(name)}", 1))
    (tmp_path / "raw" / "dora.csv").write_text(right.replace("9.8", "9.8000000", 1))
    (tmp_path / "raw" / "emil.csv").write_text(right.replace(SIT, "0,0,1,0.01,0,0").replace(WALK, "0.3,0.3,1,1.5,1,1"))
    code, said = own(SIT, WALK)
    assert (code, "acc: the acceleration is 1" in said, "of subject emil" in said) == (2, True, True), said
    assert "were data that are in g declared as m/s^2" in said


def test_every_reader_is_looked_at_and_memory_does_not_grow():
    infos = [info for reader in READERS.values() for info in reader.infos]
    assert all(any("acc" in name for name in triads(info)) for info in infos)
    assert list(triads(uci_har.INFO)) == ["total_acc", "body_gyro"], "gravity was taken out of body_acc"
    generator, counted = np.random.default_rng(0), Counter()
    for _ in range(2000):
        counted.update(_of_anna(generator.normal(0, [5.8] * 3 + [2.0] * 3, (20, 6))))
    assert len(counted) < 200
    refuse_implausible(synthetic.INFO, counted)
    with pytest.raises(PrepError, match="acc: the acceleration is 9"):
        refuse_implausible(
            replace(synthetic.INFO, unchecked=("gyro",)),
            Counter({(subject, name, number + 231): count for (subject, name, number), count in counted.items()}),
        )


def test_a_calm_gyroscope_in_degrees_is_no_rad_s():
    """Eight deg/s an axis: no window is faster than a gyroscope can be, and half of them than a body is for long."""
    generator, counted = np.random.default_rng(0), Counter()
    for _ in range(200):
        counted.update(_of_anna(generator.normal(0, [5.8] * 3 + [8.0] * 3, (20, 6))))
    with pytest.raises(
        PrepError, match=r"gyro: the angular rate is 12.* in the median window.*in deg/s declared as rad/s"
    ):
        refuse_implausible(synthetic.INFO, counted)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder", "options"),
    [
        ("wharf", "WHARF Data Set", []),
        ("utd_mhad", "UTD-MHAD", ["--config", "utd_mhad1"]),
        ("utd_mhad", "UTD-MHAD", ["--config", "utd_mhad2"]),
        ("utd_mhad", "UTD-MHAD", ["--config", "utd_mhad"]),
    ],
)
def test_what_was_really_recorded_passes(name, folder, options, prepare, shared, tmp_path):
    code, said = prepare(name, shared / "data" / "raw" / folder, tmp_path / "out", *options)
    assert code == 0, said


def test_all_subjects_in_another_unit_are_named(own, tmp_path):
    own(SIT, WALK)
    right = (tmp_path / "raw" / "anna.csv").read_text()
    in_g = right.replace(SIT, "0,0,1,0.01,0,0").replace(WALK, "0.3,0.3,1,1.5,1,1")
    for number, (name, text) in enumerate({"ben": right, "carl": in_g, "dora": in_g}.items()):
        (tmp_path / "raw" / f"{name}.csv").write_text(text.replace(",1,", f",1.{'0' * number},", 1))
    code, said = own(SIT, WALK)
    assert (code, "of subject carl, dora" in said, "in g declared as m/s^2" in said) == (2, True, True), said


def test_one_subject_that_turns_in_radians_among_degrees_is_noticed(own, tmp_path):
    sitting, walking = "0,0,9.8,1,0,0", "3,3,10,90,60,60"  # deg/s
    code, said = own(sitting, walking, rate="deg/s")
    assert code == 0, said
    right = (tmp_path / "raw" / "anna.csv").read_text()
    for number, name in enumerate(("ben", "carl", "dora"), start=1):
        (tmp_path / "raw" / f"{name}.csv").write_text(right.replace("9.8", f"9.8{'0' * number}", 1))
    code, said = own(sitting, walking, rate="deg/s")
    assert code == 0, said
    slow = right.replace(sitting, SIT).replace(walking, WALK)
    (tmp_path / "raw" / "emil.csv").write_text(slow)
    code, said = own(sitting, walking, rate="deg/s")
    assert (code, "gyro: subject emil turns 60 times slower" in said) == (0, True), said
