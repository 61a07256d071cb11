"""Where records come from: shards on disks and object stores → Arrow blocks of RECORDS."""

from mmray.sources.shards import Shard, list_shards
from mmray.sources.webdataset import EXTENSIONS, ReadOptions, read_webdataset

__all__ = ["EXTENSIONS", "ReadOptions", "Shard", "list_shards", "read_webdataset"]
