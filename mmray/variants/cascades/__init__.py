"""A fused graph in stages, of which the cheap ones answer first: which, when, at what cost."""
