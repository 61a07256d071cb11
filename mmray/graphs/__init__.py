"""ONNX graphs that take packed modalities: exported from torch, cleaned, and proved equal to their model."""
