"""What a model is worth and what it costs."""

from har_prune.evaluation.latency import LatencyStats, measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.quality import Quality, evaluate_model, load_metric

__all__ = ["LatencyStats", "Quality", "count_macs", "evaluate_model", "load_metric", "measure_latency"]
