"""write_space: a folder that serves the demo of two networks, here or as a Space on the Hub."""

import shutil
from pathlib import Path

import pandas as pd

from har_prune import __version__
from har_prune.checkpoints.load import Checkpoint
from har_prune.errors import DataError, OutputFolderError
from har_prune.exporters.deployed import load_classifier
from har_prune.inference.demo import ORIGINAL, PRUNED, compare_networks
from har_prune.inference.pipeline import HarPipeline
from har_prune.runtime.files import whole_folder

_SAMPLE = "sample"
_APP = '''"""Original and pruned, side by side. Made by `har-prune space`; python app.py serves it."""

from pathlib import Path

from har_prune.inference.demo import demo

HERE = Path(__file__).parent
page = demo(HERE / "original", HERE / "pruned", {sample})

if __name__ == "__main__":
    page.launch()
'''
_README = """---
title: Original and pruned, side by side
sdk: gradio
sdk_version: {gradio}
app_file: app.py
---

Activities of a recording, by the original network and by the pruned one: how long each takes, and where they differ.

    pip install -r requirements.txt
    python app.py

As a Space on the Hub: `hf upload OWNER/NAME . --repo-type space` in this folder. Where the package index has no
har_prune, put its wheel beside `app.py` and name it in `requirements.txt`.
"""


def write_space(
    directory: Path, original: Checkpoint | Path, pruned: Path, sample: Path | pd.DataFrame | None
) -> None:
    """Writes the folder: app.py, requirements.txt, README.md, the networks and a sample.

    Args:
        directory: Where to; must not exist or be empty.
        original: The original network; a folder is copied, and what comes from the Hub is saved as it is there.
        pruned: Folder of the pruned one.
        sample: A recording, as a file or a table; None = none.

    Raises:
        DataError: gradio is not installed, the networks are no pair, or the sample cannot be read by both.
        OutputFolderError: The folder is not empty.
    """
    try:
        from gradio import __version__ as gradio
    except ImportError as error:
        raise DataError(f"a space needs gradio: pip install 'har_prune[demo]'. ({error})") from error
    if isinstance(sample, Path) and not sample.is_file():
        raise DataError(f"sample {sample}: no such file.")
    before = original if isinstance(original, Checkpoint) else Checkpoint(str(original))
    pair = {ORIGINAL: HarPipeline.of_checkpoint(before), PRUNED: HarPipeline.from_pretrained(pruned)}
    for fact in ("channels", "units", "labels"):
        one, other = (pipeline.facts[fact] for pipeline in pair.values())
        if one != other:
            raise DataError(f"the networks are no pair: {fact} of the original {one}, of the pruned one {other}.")
    try:
        with whole_folder(directory) as folder:
            _save(before, folder / ORIGINAL)
            _save(Checkpoint(str(pruned)), folder / PRUNED)
            named = "None"
            if sample is not None:
                kind = ".csv" if isinstance(sample, pd.DataFrame) else "".join(sample.suffixes[-2:])
                path = folder / f"{_SAMPLE}{kind}"
                if isinstance(sample, pd.DataFrame):
                    sample.to_csv(path, index=False)
                else:
                    shutil.copyfile(sample, path)
                compare_networks(
                    pair[ORIGINAL], pair[PRUNED], sample if isinstance(sample, Path) else path
                )  # what cannot be read is said now
                named = f"HERE / {path.name!r}"
            (folder / "app.py").write_text(_APP.format(sample=named), encoding="utf-8")
            (folder / "requirements.txt").write_text(f"har_prune[demo]=={__version__}\n", encoding="utf-8")
            (folder / "README.md").write_text(_README.format(gradio=gradio), encoding="utf-8")
    except FileExistsError as error:
        raise OutputFolderError(f"{error}: choose another folder, or remove it first.") from error


def _save(source: Checkpoint, target: Path) -> None:
    """A folder as it is, or a network of the Hub with its feature extractor."""
    if Path(source.name_or_path).is_dir():
        hidden = shutil.ignore_patterns(".*")
        shutil.copytree(source.name_or_path, target, ignore=hidden)
        return
    model, processor = load_classifier(source)
    model.save_pretrained(target)
    processor.save_pretrained(target)
