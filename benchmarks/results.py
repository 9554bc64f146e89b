"""Every table and picture of the results, from the records beside them. Nothing is trained, nothing is measured.

python benchmarks/results.py             # `make results`
python benchmarks/results.py RUN ...     # first keeps the folds of finished runs with `test_subject: all`
"""

import argparse
import json
from pathlib import Path

import depth_and_width
import depths
import efficiency
import layers_and_filters
import loso_folds
import loso_picture
from measuring import RESULTS, render

from har_prune.pruning.store import history_at
from har_prune.reporting.html.page import report_page
from har_prune.reporting.report import run_report
from har_prune.reporting.trajectory import plot_trajectory
from har_prune.runtime.files import whole_file

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "docs" / "assets"
# History of a run: the command that made it.
RUNS = {
    "wharf": "accelerate launch har_prune/run.py recipes/wharf.yaml",
    "cifar10_resnet56_cpu": "accelerate launch har_prune/run.py recipes/cifar10_resnet56_cpu.yaml",
}
SHOWN = {"depths_loso_utd_mhad2", "layers_and_filters_loso_utd_mhad2"}  # in docs/results/index.md
PAGE = "utd_mhad2_s1"  # docs/results/report.html
# Which have the table of all folds between two marks, of these kinds of runs.
PAGES = {"README.md": ["_labels40"], "docs/results/index.md": ["_labels40", ""]}
_END = "<!-- end -->"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    for run in parser.parse_args().runs:
        loso_folds.keep(run)
    for record in sorted(RESULTS.glob("*.json")):
        if "table" in json.loads(record.read_text(encoding="utf-8")):
            render(record.stem)
    for name, command in RUNS.items():
        history = history_at(RESULTS / f"{name}.json")
        with whole_file(RESULTS / f"{name}.md") as partial:
            partial.write_text(run_report(history, command), encoding="utf-8")
        with whole_file(RESULTS / f"{name}.png") as partial:
            plot_trajectory(history, partial)
    with whole_file(ROOT / "docs" / "results" / "report.html") as partial:
        partial.write_text(report_page([RESULTS / PAGE]), encoding="utf-8")
    rows = json.loads((RESULTS / "depth_and_width.json").read_text(encoding="utf-8"))["table"]
    for folder in (RESULTS, ASSETS):
        depth_and_width.draw(rows, folder / "depth_and_width.png")
    for kind in (depths, efficiency, layers_and_filters):
        for record in RESULTS.glob(f"{kind.__name__}_*.json"):
            rows = json.loads(record.read_text(encoding="utf-8"))["table"]
            name = record.stem.removeprefix(f"{kind.__name__}_")
            for folder in (RESULTS, ASSETS) if record.stem in SHOWN else (RESULTS,):
                kind.draw(rows, name.replace("_", " "), folder / f"{record.stem}.png")
    for packed in loso_folds.HISTORIES.glob("*.json.xz"):
        loso_folds.write_run(packed.name.removesuffix(".json.xz"))
    for kind in loso_folds.KINDS:
        loso_folds.write_together(kind)
    for page, kinds in PAGES.items():
        for kind in kinds:
            begin = f"<!-- loso{kind}, made by benchmarks/results.py -->\n"
            _replace(ROOT / page, begin, loso_folds.readable(loso_folds.all_kept(kind)))
    runs = loso_folds.all_kept(PAGES["README.md"][0])
    first = next(iter(runs))
    loso_picture.draw(first, runs[first], ASSETS / f"{first}.png")


def _replace(path: Path, begin: str, table: str) -> None:
    text = path.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(_END)
    if not found or not ended:
        raise ValueError(f"{path} needs {begin.strip()} and {_END} behind it: the table stands between them")
    with whole_file(path) as partial:
        partial.write_text(f"{before}{begin}{table}\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
