"""A headless chromium. Skipped where it or axe-core is missing, except in CI."""

import os
import shutil
from pathlib import Path

import pytest

AXE = Path(os.environ.get("HAR_PRUNE_AXE", "node_modules/axe-core")) / "axe.min.js"
MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
MISSING += [] if AXE.is_file() else [str(AXE)]


@pytest.fixture(scope="module")
def browser():
    if MISSING:
        pytest.skip(f"a browser test needs {', '.join(MISSING)}")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()
