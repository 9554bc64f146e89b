"""Records of earlier versions, brought to today's format.

Format 0 (0.1): a step held its figures side by side, and latency as one number.
"""

from typing import Any


def upgraded_history(value: dict[str, Any]) -> dict[str, Any]:
    """A history.json of format 0 as format 1."""
    return {**value, "format": 1, "iterations": [upgraded_step(step) for step in value["iterations"]]}


def upgraded_step(value: dict[str, Any]) -> dict[str, Any]:
    """A step of format 0 as format 1."""
    value = dict(value)
    latency_ms, samples_seen = value.pop("latency_ms"), value.pop("samples_seen")
    unknown = {"p90_ms": None, "batch": 1, "threads": None, "device": None, "dtype": None, "original_ms": None}
    cost = {
        "macs": value.pop("macs"),
        "parameters": value.pop("parameters"),
        "latency": None if latency_ms is None else {"median_ms": latency_ms, **unknown},
    }
    metrics = {split: _metrics(quality) for split, quality in value.pop("quality").items()}
    healing = {"samples_seen": samples_seen} if value.pop("healed") else None
    samples = value.pop("calibration_samples", None)  # before there was `calibration`
    how = value.pop("calibration", None)
    if how is not None:
        how = {**how, "execution_plan": how["layout"]}
        del how["layout"]
    scores = [{"samples": samples, "interval": None, **score} for score in value.pop("scores")]
    return {
        "format": 1,
        "weights_sha256": "",
        **value,
        "calibration": how,
        "scores": scores,
        "cost": cost,
        "metrics": metrics,
        "healing": healing,
    }


def _metrics(quality: dict[str, Any]) -> dict[str, Any]:
    recalls = [row["recall"] for row in quality["per_class"].values()]
    return {**quality, "balanced_accuracy": sum(recalls) / len(recalls) if recalls else None}
