"""Training of the fused model, and what makes a trained model smaller: pruning, and training for int8."""
