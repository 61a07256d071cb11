"""Scorecards of one or two bundles, as tables for a terminal and as one HTML page."""

from mmray.scorecards.cards import Known, know
from mmray.scorecards.compare import describe, reasons, tradeoff_table, variants_table
from mmray.scorecards.page import to_html

__all__ = ["Known", "describe", "know", "reasons", "to_html", "tradeoff_table", "variants_table"]
