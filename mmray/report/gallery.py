"""Thumbnails of the worst mistakes and of rejects, read again from their shards as the job reads them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from mmray.config import RunConfig
from mmray.coverage import Interval, Missing
from mmray.errors import MmrayError, RecordError, one_line
from mmray.page.table import share
from mmray.pipeline.survey import read_options
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import ImageSpec
from mmray.report.facts import Run
from mmray.report.judged import Place
from mmray.report.tables import cut
from mmray.sources import ReadOptions, Shard, read

_PIXELS = 96
_QUALITY = 75
_SPEC = ImageSpec(height=_PIXELS, width=_PIXELS)


class Shot(NamedTuple):
    """A record to show."""

    place: Place
    told: str
    offset: int | None = None  # in its shard, if known


def gallery_html(run: Run, count: int) -> Iterator[str]:
    """Most confident mistakes, or the least sure answers where no labels are known, then rejects.

    Records without a decodable picture are skipped; shards that cannot be read are named.

    Args:
        run: whose records.
        count: of pictures, at most 60.
    """
    shots, problems = _shots(run), dict[str, str]()
    pictures = _pictures(run, shots[: 3 * count], problems)
    found = [(shot, pictures[shot.place]) for shot in shots if shot.place in pictures][:count]
    if found:
        yield "<h2>Pictures</h2>"
        frames = "".join(
            f'<figure><img width="{_PIXELS}" height="{_PIXELS}" alt="{escape(cut(shot.place.key, 60))}" '
            f'src="data:image/jpeg;base64,{data}"><figcaption>{escape(cut(shot.told))}</figcaption></figure>'
            for shot, data in found
        )
        yield f'<div class="gallery">{frames}</div>'
    for shard, why in problems.items():
        yield f"<p>{escape(cut(shard))}: no pictures: {escape(cut(why, 300))}</p>"


def _shots(run: Run) -> list[Shot]:
    judged = run.rows.judged
    shots = [
        Shot(m.place, f"{m.label} → {m.given}, {share(m.confidence)}")
        for m in (judged.worst if judged else ())
    ]
    shots += [Shot(u.place, f"{u.given or 'no label'}, {share(u.confidence)}") for u in run.rows.unsure]
    return shots + [Shot(e.place, e.kind, e.offset) for e in run.examples if not e.kind.startswith("shard/")]


def _pictures(run: Run, shots: Sequence[Shot], problems: dict[str, str]) -> dict[Place, str]:
    """JPEGs as base64."""
    config = RunConfig.model_validate(run.plan["config"])
    options = replace(read_options(config), carry=())
    shards = {shard.id: shard for shard in map(Shard.from_list, run.plan["shards"])}
    found: dict[Place, str] = {}
    for id in dict.fromkeys(shot.place.shard for shot in shots):
        if id not in shards:
            continue
        wanted = [shot for shot in shots if shot.place.shard == id]
        try:
            offsets = _offsets(run, shards[id], options, wanted)
            gaps = [Missing(row, row, offset) for row, offset in sorted(offsets.items())]
            images = {r["row"]: r["image"] for r in _records(shards[id], options, gaps, ["row", "image"])}
        except (OSError, MmrayError) as e:
            problems[shards[id].name] = one_line(e)
            continue
        for shot in wanted:
            if data := images.get(shot.place.row):
                try:
                    found[shot.place] = _thumbnail(data, config.limits.image_pixels)
                except RecordError:
                    continue  # rejected for its picture: the tables say why
    return found


def _offsets(run: Run, shard: Shard, options: ReadOptions, shots: Sequence[Shot]) -> dict[int, int]:
    """Positions of rows in a shard: known ones, or from a scan of the part without payload."""
    known = {shot.place.row: shot.offset for shot in shots if shot.offset is not None}
    starts: dict[int, int] = {0: 0}
    ends: list[Interval] = [i for part in run.ledger.parts for i in part.coverage.get(shard.id, ())]
    starts |= {end.last + 1: end.stop for end in ends}
    walks: dict[int, list[int]] = {}
    for row in {shot.place.row for shot in shots} - known.keys():
        walks.setdefault(max(start for start in starts if start <= row), []).append(row)
    bare = replace(options, payload=False)
    for start, rows in sorted(walks.items()):
        gap = Missing(start, max(rows), starts[start])
        for found in _records(shard, bare, [gap], ["row", "offset"]):
            if found["row"] in rows:
                known[found["row"]] = found["offset"]
    return known


def _records(
    shard: Shard, options: ReadOptions, gaps: Sequence[Missing], columns: list[str]
) -> Iterator[dict[str, Any]]:
    for block in read(shard, options, gaps):
        yield from block.select(columns).to_pylist()


def _thumbnail(data: bytes, max_pixels: int) -> str:
    file = io.BytesIO()
    Image.fromarray(decode_image(data, _SPEC, max_pixels)).save(file, "JPEG", quality=_QUALITY)
    return base64.b64encode(file.getvalue()).decode()
