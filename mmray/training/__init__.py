"""Training: makes a bundle from a recipe, labelled shards and optionally a teacher.

It uses `mmray.variants.quantize`: training for int8 rounds as those graphs do. Jobs and servers get only the
bundle. torch is imported here, ray only by `mmray.training.distributed`.
"""
