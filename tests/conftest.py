"""Shared fixtures. Offline, tiny random models; real data only behind the marker `data`."""

import os
import signal
from pathlib import Path

# Before anything of Hugging Face is imported: nothing in the suite may look for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# A suite that was started in the background ignores Ctrl-C, and so would the commands that it starts and stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from browsing import browser  # noqa: F401 (a fixture of several folders)

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("HAR_PRUNE_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("HAR_PRUNE_TEST_DEVICE"):  # what any device can run, and nothing else
        items[:] = [item for item in items if item.get_closest_marker("device")]
    if SHARED.is_dir() or os.environ.get("CI"):
        return  # in CI a missing folder is an error, see the fixture
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=f"real data not found in {SHARED} (set HAR_PRUNE_SHARED)"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """In CI a test on real data or in a browser that was skipped, for whatever reason, has failed."""
    report = yield
    needs = next((name for name in ("data", "browser") if item.get_closest_marker(name)), None)
    if os.environ.get("CI") and report.skipped and needs:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} (marker {needs}) was skipped ({report.longrepr}); CI must run it"
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and checkpoints."""
    assert SHARED.is_dir(), f"CI needs the real data in {SHARED}"
    return SHARED


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's own folder."""
    return ROOT


@pytest.fixture(autouse=True)
def _fresh_state() -> None:
    """Seeded, and without the precision and processes an earlier test gave accelerate's global state."""
    import torch
    from accelerate.state import AcceleratorState

    torch.manual_seed(0)
    AcceleratorState._reset_state(reset_partial_state=True)
