"""Torch modules of the encoders, the head and the fused model, and where their weights come from."""
