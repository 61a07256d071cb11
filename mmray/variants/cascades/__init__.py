"""Cascades: a fused graph in stages, of which the cheap ones answer first."""
