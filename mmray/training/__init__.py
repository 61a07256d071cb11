"""Training: a recipe, labelled shards and perhaps a teacher become a bundle.

It stands above `mmray.optimize`, whose export and evidence it uses. Between these two and the running half is
no more than a bundle. torch is imported here, ray only by `mmray.training.distributed`.
"""
