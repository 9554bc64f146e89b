"""Timelines of subjects nobody trained on, with and without smoothing: by time, by segments, and how late.

    python benchmarks/smoothing.py wharf "../shared/data/raw/WHARF Data Set" RUN/seed-0/fold-f1 RUN/seed-0/fold-f2
    python benchmarks/smoothing.py utd_mhad ../shared/data/raw/UTD-MHAD RUN/seed-0/fold-s1 --config utd_mhad2

Folds are those of a leave-one-subject-out run; RUN/.../fold-NAME/pruned never saw NAME. The recordings of NAME follow
each other in a random order (seed 0), as if worn all along; the network is told nothing of where one ends. How long
activities last and what follows what is counted in the recordings of all other subjects, in as random an order.
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import write_result

from data_prep.readers.catalogue import READERS
from data_prep.recordings import Recording
from har_prune import Activities, HarPipeline, HarStream, Smoothing, compare_timelines
from har_prune.inference.picture import draw_timelines
from har_prune.inference.smoothing import Segment


def read(name: str, config: str | None, raw: Path) -> list[Recording]:
    """All recordings of a data set."""
    reader = READERS[name]
    info = next(info for info in reader.infos if config in (None, info.name))
    parts = reader.parts(raw, info)
    return [one for part in parts for one in reader.read(part, info) if not one.left_out and len(one.values)]


def worn(recordings: list[Recording], labels: tuple[str, ...], rate: float) -> tuple[np.ndarray, list[Segment]]:
    """One recording of them all, in a random order, and what is done when."""
    known = [one for one in recordings if one.activity in labels]
    order = np.random.default_rng(0).permutation(len(known))
    values = np.concatenate([known[place].values for place in order])
    ends = np.cumsum([len(known[place].values) for place in order]) / rate
    starts = [0.0, *ends[:-1].tolist()]
    names = [known[place].activity for place in order]
    return values, [Segment(*given, None) for given in zip(starts, ends.tolist(), names, strict=True)]


def rows_of(fold: Path, recordings: list[Recording], hop_s: float, picture: Path | None) -> Iterator[dict[str, Any]]:
    """What each way of smoothing comes to on one subject."""
    pipeline, subject = HarPipeline.from_pretrained(fold / "pruned"), fold.name.removeprefix("fold-")
    labels, rate = pipeline.labels, pipeline.rate
    values, true = worn([one for one in recordings if one.subject == subject], labels, rate)
    sequences = []
    for other in sorted({one.subject for one in recordings} - {subject}):
        _, done = worn([one for one in recordings if one.subject == other], labels, rate)
        sequences.append([(labels.index(s.label), s.end_s - s.start_s) for s in done if s.label])
    activities = Activities.counted(sequences, len(labels))
    shortest = float(np.median([seconds for sequence in sequences for _, seconds in sequence])) / 4
    ways = {
        "each window by itself": None,
        "shortest activity": Smoothing(shortest_s=shortest),
        "Viterbi": Smoothing(activities),
    }
    found = {name: pipeline(values, hop_s=hop_s, smoothing=way).segments for name, way in ways.items()}
    for name, known in {"a stream, each window by itself": None, "a stream, forward filter": activities}.items():
        stream = HarStream(pipeline, hop_s=hop_s, activities=known)
        told = stream.push(values) + stream.finish()
        # What a stream says holds from the end of its window, when it says it, to the next time it does.
        ends = [p.end_s for p in told] + [true[-1].end_s]
        found[name] = tuple(
            Segment(*span, p.label, p.probability) for p, span in zip(told, pairwise(ends), strict=True)
        )
    if picture is not None:
        shown = {"done": tuple(true), **{name: found[name] for name in ("each window by itself", "Viterbi")}}
        until = min(true[-1].end_s, 180.0)
        draw_timelines({k: tuple(s for s in v if s.start_s < until) for k, v in shown.items()}, picture)
    for name, segments in found.items():
        metrics = asdict(compare_timelines(true, segments))
        f1 = {f"segment F1 @ {least} %": 100 * value for least, value in metrics.pop("segment_f1").items()}
        yield {"smoothing": name, "seconds": true[-1].end_s, "true segments": len(true), **metrics, **f1}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(READERS))
    parser.add_argument("raw", type=Path)
    parser.add_argument("folds", nargs="+", type=Path)
    parser.add_argument("--config")
    parser.add_argument("--hop-s", type=float, default=0.5)
    parser.add_argument("--picture", type=Path, help="of the first fold, its first three minutes")
    given = parser.parse_args()
    recordings = read(given.data, given.config, given.raw)
    rows = []
    for number, fold in enumerate(given.folds):
        rows += list(rows_of(fold, recordings, given.hop_s, None if number else given.picture))
    table = pd.DataFrame(rows)
    counts = ["insertions", "deletions", "fragmentations"]
    means = table.groupby("smoothing", sort=False).mean(numeric_only=True)
    summed = table.groupby("smoothing", sort=False)[counts].sum()
    result = [
        {
            "smoothing": name,
            "frame accuracy %": round(100 * row["frame_accuracy"], 2),
            **{key: round(row[key], 1) for key in means.columns if key.startswith("segment")},
            **{key: int(summed.loc[name, key]) for key in counts},
            "delay s": round(row["delay_s"], 2),
            "time with a label %": round(100 * row["told"], 1),
        }
        for name, row in means.iterrows()
    ]
    whole = table[table["smoothing"] == rows[0]["smoothing"]]
    facts = {
        "subjects": ", ".join(fold.name.removeprefix("fold-") for fold in given.folds),
        "true segments": int(whole["true segments"].sum()),
        "hours": round(whole["seconds"].sum() / 3600, 2),
        "hop s": given.hop_s,
        "what counts": "means over subjects; counts are sums",
    }
    write_result(f"smoothing_{given.config or given.data}", "Timelines with and without smoothing", facts, result)


if __name__ == "__main__":
    main()
