"""What is measured of every network of a run; the recipe's `evaluate` section."""

from pydantic import BaseModel, ConfigDict, Field


class EvaluateConfig(BaseModel):
    """What is measured beside the metrics, which always are."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    latency: bool = Field(True, description="time one example of each network, in turns with the original")
