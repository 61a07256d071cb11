"""What a run came to, as one page: `facts` reads what it left, `sections` tell it, `page` joins them.

Reads the files of the run directory alone; only a gallery opens shards.
"""
