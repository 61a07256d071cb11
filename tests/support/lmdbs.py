"""LMDBs in their three layouts, and a tampered one."""

import shutil
import subprocess
import sys

import lmdb
import msgpack

from support.scripts import ROOT
from support.tars import members_of


def write_lmdb(path, entries, *, subdir=False, **options):
    """Write (key, value) pairs as one environment, in place of what is there; returns its path."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(
            str(path), subdir=subdir, map_size=1 << 28, lock=False, sync=False, **options
        ) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in entries:
            assert transaction.put(key.encode() if isinstance(key, str) else key, value)
    return path


def write_members(path, records, **options):
    """Records as (key, {extension: payload}) pairs, an entry for each member."""
    return write_lmdb(path, members_of(records), **options)


def write_maps(path, records, **options):
    """The same records, each as one map of its members."""
    return write_lmdb(path, [(key, msgpack.packb(fields)) for key, fields in records], **options)


def write_images(path, images, captions=None):
    """(key, payload) pairs, with captions by key beside them."""
    write_lmdb(path, images)
    if captions is not None:
        lines = [f"{key}\t{caption}\n" for key, caption in sorted(captions.items())]
        path.with_name(path.name + ".captions.tsv").write_text("".join(lines), encoding="utf-8")
    return path


def commit(path, key, value, *, subdir=False):
    """Write one more entry in another process: this one may have the environment open."""
    script = (
        "import lmdb, sys\n"
        "path, key, value, subdir = sys.argv[1:]\n"
        "with lmdb.open(path, subdir=subdir == 'True', map_size=1 << 28, lock=False) as environment:\n"
        "    with environment.begin(write=True) as transaction:\n"
        "        transaction.put(key.encode(), value.encode())\n"
    )
    command = [sys.executable, "-c", script, str(path), key, value, str(subdir)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=60)
