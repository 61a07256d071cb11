"""Where the time of some records goes, in one process: by stage, and by node of the graphs."""
