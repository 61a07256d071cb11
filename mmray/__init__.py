"""mmray: distributed multimodal batch inference with Ray Data and ONNX Runtime."""

__version__ = "0.1.0"
