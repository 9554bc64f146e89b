"""What a model is worth and what it costs."""

from har_prune.evaluation.cost import Cost, measure_cost
from har_prune.evaluation.latency import Latency, measure_latency
from har_prune.evaluation.macs import count_macs
from har_prune.evaluation.quality import EvalMetrics, evaluate_model, load_metric

__all__ = [
    "Cost",
    "EvalMetrics",
    "Latency",
    "count_macs",
    "evaluate_model",
    "load_metric",
    "measure_cost",
    "measure_latency",
]
