"""The report of a run as one page: `facts` reads its files, `sections` describe them, `page` joins all.

Reads only the files of the run directory; only a gallery opens shards.
"""
