"""Forms of a bundle's graph, and the gate that each must pass: what `mmray optimize` does."""
