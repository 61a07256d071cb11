"""Real parts that tests are made of: media, shards, damage, a small ONNX bundle, outcomes."""
