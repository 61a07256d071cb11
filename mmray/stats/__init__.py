"""Bounds of shares: exact ones for independent trials, intervals for records in groups."""
