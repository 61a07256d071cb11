"""A fused graph in stages, of which the cheap ones answer first: which stages, which thresholds, at what cost."""
