"""A stream against the pipeline over the whole recording."""

import threading

import numpy as np
import pytest
import torch
from families import har_resnet

from har_prune import HarFeatureExtractor, HarPipeline, HarStream
from har_prune.errors import CheckpointError, DataError
from har_prune.exporters.deployed import deployed
from har_prune.inference.pipeline import _in_torch
from har_prune.inference.smoothing import Activities, ForwardFilter


@pytest.fixture(scope="module")
def pipeline():
    extractor = HarFeatureExtractor(
        num_channels=6, sampling_rate_hz=50.0, window_size=32, channel_names=[f"c{n}" for n in range(6)],
        channel_mean=[0.0] * 6, channel_std=[2.0] * 6, channel_units=["m/s^2"] * 6,
    )  # fmt: skip
    torch.manual_seed(0)
    made = deployed(har_resnet(), extractor)
    return HarPipeline(_in_torch(made.network), made.facts)


@pytest.fixture(scope="module")
def recording():
    values = np.random.default_rng(1).normal(size=(800, 6)).cumsum(0) / 5
    values[300:340, 2] = np.nan
    values[500:506] = np.nan
    values[790:792] = np.nan
    return values


@pytest.mark.parametrize("rate", [50.0, 100.0])
@pytest.mark.parametrize("chunk", [1, 13, 800])
def test_a_stream_says_what_the_pipeline_says_to_the_bit(pipeline, recording, rate, chunk):
    timeline = pipeline(recording, rate, hop_s=0.2, batch_size=1)
    stream = HarStream(pipeline, rate, hop_s=0.2)
    found = [p for first in range(0, 800, chunk) for p in stream.push(recording[first : first + chunk])]
    found += stream.finish()
    windows = [prediction for prediction in found if prediction.label is not None]
    assert [window.start_s for window in windows] == timeline.starts_s.tolist()
    np.testing.assert_array_equal(np.stack([window.probabilities for window in windows]), timeline.probabilities)
    gaps = [(s.start_s, s.end_s) for s in timeline.segments if s.label is None]
    assert [(p.start_s, p.end_s) for p in found if p.label is None] == gaps != []
    assert stream.finish() == []
    with pytest.raises(DataError, match="has ended"):
        stream.push(recording[:1])


def test_a_prediction_comes_when_its_window_is_full(pipeline, recording):
    stream = HarStream(pipeline, hop_s=0.2)
    came = [number for number, row in enumerate(recording[:100]) if stream.push(row[None])]
    assert came == [31, 41, 51, 61, 71, 81, 91]


def test_units_and_times_are_those_of_the_pipeline(pipeline, recording):
    times = 50 + np.arange(800) / 50
    stream = HarStream(pipeline, units=["g"] * 6)
    found = stream.push(recording / 9.80665, times) + stream.finish()
    timeline = pipeline(recording / 9.80665, units=["g"] * 6, batch_size=1)
    windows = [prediction.probabilities for prediction in found if prediction.label]
    np.testing.assert_array_equal(np.stack(windows), timeline.probabilities)


def test_the_other_wrist_is_mirrored_in_pipeline_and_stream(pipeline, recording):
    facts = pipeline.facts | {"channels": ["acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z"]}
    facts["channel_std"] = [9.0] * 6  # it has seen fast turns
    watch = HarPipeline(pipeline.run, facts | {"units": ["m/s^2"] * 3 + ["rad/s"] * 3})
    turned = recording * [1, -1, 1, -1, 1, -1]
    plain, mirrored = watch(recording, batch_size=1), watch(turned, mirror=True, batch_size=1)
    np.testing.assert_array_equal(plain.probabilities, mirrored.probabilities)
    stream = HarStream(watch, mirror=True)
    found = [p.probabilities for p in stream.push(turned) + stream.finish() if p.label]
    np.testing.assert_array_equal(np.stack(found), plain.probabilities)
    with pytest.raises(CheckpointError, match="cannot be mirrored"):
        pipeline(recording, mirror=True)


def test_the_forward_filter_is_bayes_rule_and_forgets_at_gaps(pipeline, recording):
    activities = Activities.usual(3, 5.0)
    stream = HarStream(pipeline, hop_s=0.2, activities=activities)
    found = stream.push(recording) + stream.finish()
    plain = HarStream(pipeline, hop_s=0.2)
    raw = plain.push(recording) + plain.finish()
    belief, before = None, 0.0
    for mine, other in zip(found, raw, strict=True):
        if other.label is None:
            belief = None
            continue
        stays = np.exp(-(other.start_s - before) / 5.0)
        step = np.full((3, 3), (1 - stays) / 2) + np.eye(3) * (stays - (1 - stays) / 2)
        belief = (np.ones(3) if belief is None else belief @ step) * other.probabilities ** np.sqrt(10 / 32)
        belief, before = belief / belief.sum(), other.start_s
        np.testing.assert_allclose(mine.probabilities, belief, rtol=1e-5)
    assert ForwardFilter(activities).step(np.array([0.2, 0.3, 0.5]), 1.0).tolist() == pytest.approx([0.2, 0.3, 0.5])


def test_bad_chunks_are_refused_and_not_taken(pipeline, recording):
    stream = HarStream(pipeline, hop_s=0.2)
    for bad, said in (
        (np.zeros((3, 5)), r"samples \[n, 6\] are wanted.*got \[3, 5\]"),
        (np.zeros(6), "are wanted"),
        (np.full((1, 6), np.inf), "holds infinity in sample 0"),
        (np.full((1, 6), 1e39), "holds 1e.39 in sample 0"),
    ):
        with pytest.raises(DataError, match=said):
            stream.push(bad)
    with pytest.raises(DataError, match="one for each"):
        stream.push(np.zeros((3, 6)), np.arange(2))
    expected = HarStream(pipeline, hop_s=0.2).push(recording[:100])
    assert len(stream.push(recording[:100])) == len(expected)
    with pytest.raises(DataError, match="in every chunk or in none"):
        stream.push(recording[100:101], np.arange(1.0))
    with pytest.raises(DataError, match="must be above 0"):
        HarStream(pipeline, 0.0)
    with pytest.raises(DataError, match="knows 5 activities, and the network 3"):
        HarStream(pipeline, activities=Activities.usual(5, 4.0))
    faster = HarStream(pipeline)
    assert faster.push(recording[:6], np.arange(6) / 100) == []
    with pytest.raises(DataError, match="100 samples a second, and the stream expects 50"):
        faster.push(recording[6:], np.arange(6, 800) / 100)
    timed = HarStream(pipeline)
    timed.push(recording[:10], np.arange(10) / 50)
    with pytest.raises(DataError, match="goes back"):
        timed.push(recording[:10], np.arange(10) / 50)
    assert HarStream(pipeline).finish() == []
    for bad in ([1.0, 0.98, 1.02], [-5.0, -5.1, -4.0], [np.nan, 1.0, 2.0], [0.0, 1e8, 2e8]):
        late = HarStream(pipeline, hop_s=0.2)
        assert late.push(np.zeros((0, 6))) == []
        with pytest.raises(DataError):
            late.push(recording[:3], np.array(bad))
        found, whole = late.push(recording, np.arange(800) / 50), HarStream(pipeline, hop_s=0.2).push(recording)
        assert [p.start_s for p in found][:20] == [p.start_s for p in whole][:20]


def test_chunks_of_several_threads_are_all_taken(pipeline):
    stream, found = HarStream(pipeline, hop_s=0.2), []
    threads = [threading.Thread(target=lambda: found.extend(stream.push(np.ones((25, 6))))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = HarStream(pipeline, hop_s=0.2)
    assert len(found) + len(stream.finish()) == len(alone.push(np.ones((200, 6))) + alone.finish())
