import json
import re
from dataclasses import replace

import pytest
from tiny_history import history

from har_prune import EvalMetrics
from har_prune.errors import OutputFolderError
from har_prune.evaluation.robustness.measure import Robustness
from har_prune.pruning.history import PruningHistory
from har_prune.reporting.html.page import report_page


def rich_history():
    """A record with everything a page can show, and names that would be markup."""
    record = history()
    names = ["walk", "<script>alert(1)</script>", "a|b"]
    per_class = {name: {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 10} for name in names}
    confusion = [[8, 2, 0], [1, 9, 0], [0, 3, 7]]
    robust = {
        name: {"sort": sort, "severities": [1, 3], "accuracy": [0.8, 0.6], "calibration_error": [0.1, 0.2]}
        for name, sort in (("fog", "corruption"), ("<i>snow", "corruption"), ("fgsm", "attack"))
    }
    steps = []
    for step in record.iterations:
        metrics = EvalMetrics(
            0.85 - 0.01 * step.iteration, 0.8, 0.4, 40, per_class, confusion=confusion, balanced_accuracy=0.7,
            per_group={"s1": {"accuracy": 0.85, "samples": 20}, "<b>s2": {"accuracy": 0.8, "samples": 20}},
        )  # fmt: skip
        measured = {"robustness": Robustness("test", 40, 0, 0.85, 0.05, robust)}
        steps.append(replace(step, metrics={**step.metrics, "test": metrics}, measured=measured))
    return replace(record, iterations=tuple(steps), controls={"scratch": steps[1], "last": steps[1]})


def kept(folder, record, *, curves=True):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "history.json").write_text(json.dumps(record.to_json()))
    if curves:
        lines = [{"step": n, "heal-001/loss": 1 / n, "heal-001/learning_rate": 0.1} for n in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_names_from_data_are_text_and_nothing_else(tmp_path):
    page = report_page([kept(tmp_path / "<b>run", rich_history())])
    assert page.count("<script>") == 1, "our own"
    assert "alert(1)" in page
    assert not re.search(r"<b>(run|s2)|<i>snow", page)


def test_no_request_leaves_the_page(tmp_path):
    page = report_page([kept(tmp_path / "run", rich_history())])
    outside = re.findall(r'(?:src|href|url|@import)\s*[=(]?\s*["\']?(?!#|data:)([a-z]+:[^"\' )]+|//[^"\' )]+)', page)
    assert not outside
    assert "default-src 'none'" in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_the_page_says_what_the_record_says(tmp_path):
    record = rich_history()
    page = report_page([kept(tmp_path / "run", record)])
    values = {float(value) for value in re.findall(r'data-value="([^"]+)"', page)}
    for step in (*record.iterations, *record.controls.values()):
        assert step.cost.macs in values
        assert any(abs(value - 100 * step.metrics["test"].accuracy) < 1e-9 for value in values)
    for step in record.iterations:
        for score in step.scores:
            assert score.importance in values
    assert "1 of 4 blocks removed, 20.0 % of the multiply-accumulates gone" in page
    assert page.count("<figure>") == 4, "accuracy, importance, robustness, training"
    assert page.count("<title id=") == 4, "each has a text alternative"


def test_several_runs_stand_side_by_side(tmp_path):
    page = report_page([kept(tmp_path / "a" / "run", rich_history()), kept(tmp_path / "b" / "run", history())])
    assert "Side by side" in page
    assert page.count("<article") == 2
    assert "run&#39;" in page, "two runs of one name are told apart"
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def kept_folds(folder):
    """A run of two test subjects and two seeds; a third one has not ended."""
    subjects = ["s1", "<i>s2"]
    for seed in (0, 1):
        for subject in subjects:
            kept(folder / f"seed-{seed}" / f"fold-{subject}", replace(rich_history(), seed=seed))
    kept(folder / "seed-2" / "fold-s1", rich_history())
    (folder / "seed-0 of old").mkdir()
    (folder / "loso.json").write_text(json.dumps({"subjects": dict.fromkeys(subjects)}))
    return folder


def test_all_folds_of_a_run_have_one_page(tmp_path):
    folder = kept_folds(tmp_path / "loso")
    page = report_page([folder])
    assert not re.search(r"<i>s2", page)
    assert "2 people, each the test of networks that never saw them: 1 of" in page
    assert "gone in 4 of 4" in page
    assert "&lt;i&gt;s2" in page
    assert "same architecture from scratch" in page
    assert "Confusion of the pruned network" in page
    both = report_page([folder, kept(tmp_path / "alone", rich_history())])
    assert 'href="#run0"' in both
    assert 'href="#run1"' in both
    (folder / "loso.json").write_text("{}")
    with pytest.raises(OutputFolderError, match=r"loso\.json is damaged"):
        report_page([folder])


@pytest.mark.parametrize("version", [0, 1])
def test_records_of_every_format_have_a_page(root, version):
    path = root / "tests" / "pruning" / "histories" / f"format_{version}.json"
    record = PruningHistory.from_json(json.loads(path.read_text()))
    page = report_page([path])
    gone = len(record.before.remaining) - len(record.after.remaining)
    assert f"{gone} of {len(record.before.remaining)} blocks removed" in page


def test_a_run_without_anything_removed_has_a_page(tmp_path):
    record = history()
    page = report_page([kept(tmp_path / "run", replace(record, iterations=record.iterations[:1], selected=0))])
    assert "0 of 4 blocks removed" in page
