"""A float32 ONNX graph in lower precision: int8 by calibrated ranges or row by row, and float16."""
