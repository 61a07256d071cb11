"""ONNX files → a bundle: one fused graph as it is, or one graph for each modality, fused here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from mmray.batching import Feeds, pack
from mmray.bundle import Bundle, check_replaceable
from mmray.engine import Engine
from mmray.errors import ConfigError
from mmray.graphs import Reference, compare_with, with_blank_rows
from mmray.importing.card import Card, source_of
from mmray.importing.description import Description, EncoderFiles, read_labels
from mmray.importing.finish import Finished, Say, finish, log
from mmray.importing.fuse import fuse
from mmray.importing.graph import cleaned, to_opset
from mmray.importing.heads import Logits, read_head
from mmray.importing.interface import check_interface, free_dims
from mmray.importing.load import load_graph
from mmray.importing.original import Original
from mmray.importing.pieces import read_piece
from mmray.importing.rows import ROWS
from mmray.importing.samples import sample_records
from mmray.models.fused import INPUTS
from mmray.schema import Modality


def import_onnx(description: Description, output: Path, *, say: Say = log.info) -> Bundle:
    """Make a bundle from ONNX files.

    Args:
        description: has `graph` or `encoders`.
        output: the bundle's directory; its name becomes the bundle's.
        say: gets progress messages.

    Raises:
        ConfigError: the description lacks what ONNX files need.
        ModelError: a graph cannot be read, or its inputs, outputs or answers do not fit.
        EngineError: the new graph differs from the one that it was made from.
        BundleError: `output` exists and is not a bundle.
    """
    check_replaceable(output)
    card = _card(description)
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / "fused.onnx"
        if description.graph:
            made = _take(description.graph, card, graph)
        elif description.encoders:
            made = _fuse(description.encoders, description.head, card, graph, say)
        else:
            raise ConfigError("describe a graph, or encoders")
        return finish(made, card, output, say)


def _card(description: Description) -> Card:
    if description.preprocessing is None:
        raise ConfigError("`preprocessing` is missing: describe what the model was trained with")
    encoders = description.encoders or EncoderFiles()
    files = [description.graph, *(encoder.graph for encoder in encoders.given.values()), description.head]
    pieces = description.model_dump(mode="json", include={"graph", "encoders", "head"}, exclude_defaults=True)
    return Card(
        spec=description.preprocessing,
        labels=read_labels(description),
        tokenizer=description.tokenizer,
        sources=tuple(source_of(file, description.licence) for file in files if file and file.is_file()),
        origin={"imported": json.dumps(pieces)},
        examples=description.examples,
    )


def _take(source: Path, card: Card, graph: Path) -> Finished:
    """A fused graph, cleaned and converted to the opset, in one file."""
    check_interface(source, str(source), card.spec, len(card.labels))
    model, as_it_came = load_graph(source), source
    if free_dims(model):
        as_it_came = graph.with_name("original.onnx")
        onnx.save(model, as_it_came)
    original = Engine(as_it_came, provider="cpu")
    onnx.save(cleaned(to_opset(model, str(source)), str(source)), graph)
    return Finished(graph, str(source), lambda g, cases: compare_with(original, str(source), g, cases))


def _fuse(given: EncoderFiles, head_file: Path | None, card: Card, graph: Path, say: Say) -> Finished:
    """EncoderFiles, and a head if there is one, as one graph."""
    pieces, originals = {}, {}
    sample = pack(sample_records(card)[1], card.spec)
    for modality, encoder in given.given.items():
        few = {name: sample[name][:ROWS] for name in INPUTS[modality]}
        pieces[modality], originals[modality] = read_piece(modality, encoder, card.spec, few, say)
    head, logits = None, None
    if head_file:
        width = sum(piece.width for piece in pieces.values())
        head, logits = read_head(head_file, card.labels, width, len(pieces))
    onnx.save(fuse(pieces, head, card.spec), graph)
    widths = ", ".join(f"{modality} {piece.width}" for modality, piece in pieces.items())
    say(f"fused into one graph, features of {widths}, {graph.stat().st_size / 1e6:.1f} MB")
    if blank := [modality for modality, piece in pieces.items() if piece.needs_rows]:
        say(f"{', '.join(blank)}: does not run without rows, so it gets one blank row in such batches")
    reference = _reference(originals, logits)
    return Finished(
        graph, "the fused graph", lambda g, cases: compare_with(reference, "the pieces", g, cases)
    )


def _reference(originals: Mapping[Modality, Original], head: Logits | None) -> Reference:
    """The same model, from the original graphs and numpy."""

    def run(feeds: Feeds) -> Feeds:
        filled = with_blank_rows(feeds)
        present = feeds["present"].astype(np.bool_)
        parts = []
        for column, (modality, original) in enumerate(originals.items()):
            row = filled[INPUTS[modality][-1]].astype(np.int64)
            embeddings = original(filled)
            total = np.zeros((len(present), embeddings.shape[1]), np.float32)
            np.add.at(total, row, embeddings)
            count = np.bincount(row, minlength=len(present)).clip(1)
            parts.append(np.where(present[:, [column]], total / count[:, None], 0))
        features = np.concatenate(parts, axis=1).astype(np.float32)
        if head is None:
            return {"features": features}
        logits = head(features, present)
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return {"logits": logits, "scores": raised / raised.sum(axis=1, keepdims=True), "features": features}

    return run
