"""The thresholds of a gate, as stated in a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Thresholds(BaseModel):
    """Thresholds that a variant must be shown to meet: on all records as they are, and in each slice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    agreement: float = Field(0.95, ge=0, le=1)  # share of equal decisions, at least
    slice_agreement: float = Field(0.85, ge=0, le=1)
    accuracy_loss: float = Field(0.01, ge=0, le=1)  # at most
    slice_accuracy_loss: float = Field(0.05, ge=0, le=1)
    divergence: float = Field(0.05, ge=0)  # mean KL divergence of the scores in nats, at most; an estimate
    least_groups: int = Field(50, ge=2)  # minimum number of independent groups of records
    confidence: float = Field(0.95, gt=0.5, lt=1)  # of the bounds, one-sided
