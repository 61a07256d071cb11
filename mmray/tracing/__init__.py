"""Profiles some records in one process: by stage, and by node of the graphs."""
