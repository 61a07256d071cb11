"""What a model answers to records of a known split, how often it is right, and how sure that is.

Stands below everything that makes or judges a bundle: import, training, variants and reports count alike.
"""
