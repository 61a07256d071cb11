"""The effect of captions that the model's text encoder does not read, kept and masked.

    python datasets/tuxpaint.py --languages en,ru,el,ar,zh_cn,hi,fr,de,es --output data/tuxpaint-many
    python jobs/bench foreign_captions --input data/tuxpaint-many --bundle bundles/stamps   # minutes

Needs a bundle that states its scripts, and `pip install 'mmray[language]'` where it states languages. Records
of `split: test` with a label of the bundle are answered from the text, the image, and both, the text kept or
masked. Expected on the stamps: masking gains six to eleven points in another script, and nothing visible in
another language. ± is the standard error, clustered by `caption_group`; the gain is paired.
"""

import json
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from _clustered import clustered_error
from rich.console import Console
from rich.table import Table

from mmray.bundle import Bundle
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import Modality, meta_fields
from mmray.sources import ReadOptions, list_shards, read
from mmray.unread import OnForeignText

WAYS: dict[str, tuple[Sequence[Modality], OnForeignText]] = {
    "text": (("text",), "keep"),
    "image": (("image",), "keep"),
    "both, kept": (("image", "text"), "keep"),
    "both, masked": (("image", "text"), "mask"),
}


def main(
    input: Annotated[list[str], typer.Option(help="Shards: directory, file or pattern; repeat for more.")],
    bundle: Annotated[str, typer.Option(help="Bundle directory.")],
) -> None:
    """Print accuracies by language and way, and the share of texts that is detected as foreign."""
    opened = Bundle.open(bundle)
    records = pa.concat_tables(block for shard in list_shards(input) for block in read(shard, ReadOptions()))
    about = [meta_fields(meta) for meta in records["meta"].to_pylist()]
    of_test = [i for i, m in enumerate(about) if m.get("split") == "test" and m.get("label") in opened.labels]
    records, about = records.take(of_test), [about[i] for i in of_test]
    languages, groups = ([m[name] for m in about] for name in ("language", "caption_group"))
    predict, answers = Predictor(opened), {}
    for name, (modalities, foreign_text) in WAYS.items():
        preprocess = open_preprocessor(opened, modalities=modalities, foreign_text=foreign_text)
        answers[name] = predict(preprocess(records)).to_pylist()
    shown = Table("language", "records", "told", *WAYS, "gain", box=None, padding=(0, 2, 0, 0))
    for language in [*dict.fromkeys(languages), "fr+de+es", "ru+el+ar+zh_cn+hi"]:
        rows = [i for i, one in enumerate(languages) if one in language.split("+")]
        if not rows:
            continue
        line = {"told": f"{np.mean([answers['text'][i]['unread'] is not None for i in rows]):.3f}"}
        right = {
            name: np.array([found[i]["label"] == about[i]["label"] for i in rows], np.int64)
            for name, found in answers.items()
        }
        right["gain"] = right["both, masked"] - right["both, kept"]
        for name, values in right.items():
            line[name] = f"{values.mean():.3f} ± {clustered_error(values, [groups[i] for i in rows]):.3f}"
        shown.add_row(language, str(len(rows)), *line.values())
        print(json.dumps({"language": language, "records": len(rows), **line}, ensure_ascii=False))
    Console(width=110).print(shown)


if __name__ == "__main__":
    typer.run(main)
