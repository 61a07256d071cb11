"""Runs of the job while a seeded script breaks what it can, and a count of what became of each record."""
