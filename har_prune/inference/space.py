"""write_space: a folder that serves the demo of two networks, here or as a Space on the Hub."""

import shutil
from pathlib import Path

import pandas as pd

from har_prune import __version__
from har_prune.errors import DataError, OutputFolderError
from har_prune.inference.demo import ORIGINAL, PRUNED
from har_prune.inference.pipeline import HarPipeline
from har_prune.runtime.files import whole_folder

_SAMPLE = "sample"
_APP = '''"""Original and pruned, side by side. Made by `har-prune space`; python app.py serves it."""

from pathlib import Path

from har_prune.inference.demo import demo

HERE = Path(__file__).parent
page = demo({original}, {pruned}, {sample})

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


def write_space(directory: Path, original: str | Path, pruned: str | Path, sample: Path | pd.DataFrame | None) -> None:
    """Writes the folder: app.py, requirements.txt, README.md, the networks and a sample.

    Args:
        directory: Where to; must not exist or be empty.
        original: Folder of the original network, which is copied, or its Hub id.
        pruned: Of the pruned one.
        sample: A recording, as a file or a table; None = none.

    Raises:
        DataError: gradio is not installed, the networks take different channels, or the sample cannot be read.
        OutputFolderError: The folder is not empty.
    """
    try:
        from gradio import __version__ as gradio
    except ImportError as error:
        raise DataError(f"a space needs gradio: pip install 'har_prune[demo]'. ({error})") from error
    networks = {ORIGINAL: original, PRUNED: pruned}
    pipelines = {name: HarPipeline.from_pretrained(source) for name, source in networks.items()}
    channels = {name: pipeline.facts["channels"] for name, pipeline in pipelines.items()}
    if channels[ORIGINAL] != channels[PRUNED]:
        raise DataError(f"the original takes {channels[ORIGINAL]}, the pruned network {channels[PRUNED]}: not a pair.")
    try:
        with whole_folder(directory) as folder:
            named = {name: _taken(source, folder / name) for name, source in networks.items()}
            named[_SAMPLE] = "None"
            if sample is not None:
                suffixes = [".csv"] if isinstance(sample, pd.DataFrame) else sample.suffixes[-2:]
                path = folder / (_SAMPLE + "".join(suffixes))
                if isinstance(sample, pd.DataFrame):
                    sample.to_csv(path, index=False)
                else:
                    shutil.copyfile(sample, path)
                pipelines[PRUNED](path)  # what cannot be read is said now
                named[_SAMPLE] = f"HERE / {path.name!r}"
            (folder / "app.py").write_text(_APP.format(**named), encoding="utf-8")
            (folder / "requirements.txt").write_text(f"har_prune[demo]=={__version__}\n", encoding="utf-8")
            (folder / "README.md").write_text(_README.format(gradio=gradio), encoding="utf-8")
    except FileExistsError as error:
        raise OutputFolderError(f"{error}: choose another folder, or remove it first.") from error


def _taken(source: str | Path, target: Path) -> str:
    """How app.py names a network, whose folder is copied."""
    if not Path(source).is_dir():
        return repr(str(source))
    shutil.copytree(source, target, ignore=lambda _, names: [name for name in names if name.startswith(".")])
    return f"HERE / {target.name!r}"
