"""Models that were made elsewhere become bundles: torch modules, ONNX files, `transformers` directories.

Whatever the door, the graph that comes out takes packed modalities, and nothing is written before it was
shown to give what the model gave (`finish`).
"""
