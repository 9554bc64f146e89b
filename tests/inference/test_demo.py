"""The demo: two networks over one recording, and the page that shows them, driven in a browser."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from console import refused, short_run
from families import cifar_resnet
from transformers import ViTImageProcessor
from typer.testing import CliRunner

from har_prune import HarPipeline
from har_prune.commands.app import app
from har_prune.inference.demo import ORIGINAL, PRUNED, TRUTH, Difference, compare_networks

FACTS = {
    "labels": ["still", "busy"], "input": "windows", "sampling_rate_hz": 10.0, "window_size": 10, "window_s": 1.0,
    "hop_s": 1.0, "channels": ["x"], "units": ["g"],
}  # fmt: skip


def _network(threshold):
    """Busy where the mean of a window is above a threshold."""

    def run(inputs):
        busy = (inputs["windows"].mean((1, 2)) > threshold).astype(np.float64)
        chances = np.stack([1 - busy, busy], 1)
        return chances, chances

    return HarPipeline(run, FACTS)


def test_where_two_networks_differ_is_told_to_the_second(tmp_path):
    values = np.repeat([0.0, 2.0, 1.0, 0.0], 30)
    table = pd.DataFrame({"x": values, "label": np.repeat(["still", "busy", "busy", None], 30)})
    table.to_csv(tmp_path / "r.csv", index=False)
    found = compare_networks(_network(0.5), _network(1.5), tmp_path / "r.csv")
    assert found.differences == (Difference(6.0, 9.0, "busy", "still"),)
    assert found.agreement == pytest.approx(0.75, abs=0.002)
    assert found.windows == {ORIGINAL: 12, PRUNED: 12}
    assert set(found.latency_ms) == {ORIGINAL, PRUNED}
    assert [(s.start_s, s.label) for s in found.timelines[TRUTH]] == [(0.0, "still"), (3.0, "busy"), (9.0, None)]
    same = compare_networks(_network(0.5), _network(0.5), tmp_path / "r.csv")
    assert (same.agreement, same.differences) == (1.0, ())


def test_a_gap_is_no_agreement_and_no_activity(tmp_path):
    times = np.concatenate([np.arange(100) / 10, 1000 + np.arange(100) / 10])
    pd.DataFrame({"time": times, "x": 1.0, "label": "busy"}).to_csv(tmp_path / "r.csv", index=False)
    found = compare_networks(_network(0.5), _network(1.5), tmp_path / "r.csv")
    assert found.agreement == 0
    assert [(each.start_s, each.original, each.pruned) for each in found.differences] == [
        (0.0, "busy", "still"), (1000.0, "busy", "still"),
    ]  # fmt: skip
    assert [(s.label, round(s.end_s)) for s in found.timelines[TRUTH]] == [("busy", 10), ("busy", 1010)]


@pytest.mark.parametrize("kind", ["string", "Int64", "float64"])
def test_truth_follows_the_times_of_the_recording_whatever_holds_the_labels(kind, tmp_path):
    labels = pd.Series([1] * 200 + [2] * 190 + [None] * 10, dtype="float64").astype("Int64").astype(kind)
    table = pd.DataFrame({"x": np.repeat([0.0, 2.0], 200), "label": labels})
    table.index = pd.Index(np.arange(400) / 20, name="time")  # at twice the network's rate
    table.to_parquet(tmp_path / "r.parquet")
    found = compare_networks(_network(0.5), _network(0.5), tmp_path / "r.parquet")
    assert [(s.start_s, s.label) for s in found.timelines[TRUTH]] == [(0.0, "1"), (10.0, "2"), (19.5, None)]
    assert found.timelines[ORIGINAL][-1].end_s == pytest.approx(20, abs=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return short_run(tmp_path_factory.mktemp("run") / "out")


def _space(*arguments):
    return CliRunner().invoke(app, ["space", *map(str, arguments)])


@pytest.fixture(scope="module")
def space(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space") / "demo"
    done = _space(run, folder)
    assert done.exit_code == 0, done.output
    return folder


def test_a_space_has_all_it_needs(space):
    assert {path.name for path in space.iterdir()} == {
        "app.py", "requirements.txt", "README.md", "original", "pruned", "sample.csv",
    }  # fmt: skip
    assert re.match(r"---\ntitle: .*\nsdk: gradio\nsdk_version: 6\.\d+", (space / "README.md").read_text())
    sample = pd.read_csv(space / "sample.csv")
    assert {"walking", "lying"} <= set(sample["label"])
    assert np.diff(sample["time"]).max() == pytest.approx(0.02)


def test_bad_input_is_one_message(run, space, tmp_path):
    refused(_space(tmp_path, tmp_path / "out"), "no folder of a run that has ended")
    refused(_space(run, space), "not empty")
    refused(_space(run, tmp_path / "out", "--sample", tmp_path / "no.csv"), "no such file")
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n3,4\n")
    refused(_space(run, tmp_path / "out", "--sample", tmp_path / "odd.csv"), "has no column 'acc_x'")
    (tmp_path / "short.csv").write_text("acc_x,acc_y,acc_z,gyro_x,gyro_y,gyro_z\n" + 5 * "1,2,3,4,5,6\n")
    refused(_space(run, tmp_path / "out", "--sample", tmp_path / "short.csv"), "short.csv has no stretch of half")
    refused(_space(run, tmp_path / "out", "--original", tmp_path / "nothing"), "nothing")
    shutil.copytree(run / "original", tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    config["id2label"]["0"] = "sleeping"
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    refused(_space(run, tmp_path / "out", "--original", tmp_path / "other"), "no pair: labels")
    images = tmp_path / "images"
    cifar_resnet().save_pretrained(images / "pruned")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(images / "pruned")
    (images / "recipe.yaml").write_text("{}")
    refused(_space(images, tmp_path / "out"), "classifies no sensor windows")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def served(space):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    server = subprocess.Popen([sys.executable, space / "app.py"], env=environment)
    for _ in range(240):
        with socket.socket() as asked:
            if server.poll() is not None or asked.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


@pytest.mark.browser
def test_the_page_shows_the_sample_and_refuses_what_is_no_recording(browser, served, tmp_path):
    def until(what, tries=240):
        for _ in range(tries):
            text = browser.find_element("tag name", "body").text
            if what in text:
                return text
            time.sleep(0.25)
        raise AssertionError(f"{what!r} is not on the page: {text}")

    def press(label):
        next(each for each in browser.find_elements("tag name", "button") if each.text == label).click()

    browser.set_window_size(1200, 1400)
    browser.get(served)
    until("Look at the sample")
    press("Look at the sample")
    text = until("They agree")
    assert re.search(
        r"They agree \d+\.\d % of the time in which one names an activity; pruned, a window takes \d+\.\d\d times",
        text,
    )
    until("one window, ms")
    assert any("Timelines" in (image.get_attribute("alt") or "") or image.get_attribute("src")
               for image in browser.find_elements("tag name", "img"))  # fmt: skip
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n3,4\n")
    browser.find_element("css selector", "input[type=file]").send_keys(str(tmp_path / "notes.csv"))
    until("notes")
    press("Look at the recording")
    until("has no column 'acc_x'")
