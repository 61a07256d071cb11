"""Training: makes a bundle from a recipe, labelled shards and optionally a teacher.

It stands above `mmray.variants.quantize`, as whose graphs a training for int8 rounds. Between it and the
running half is no more than a bundle. torch is imported here, ray only by `mmray.training.distributed`.
"""
