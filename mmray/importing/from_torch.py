"""Torch modules → a bundle: export, check, write. Trains nothing; `mmray.importing.build` trains a head."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torch import nn

from mmray.bundle import Bundle, check_replaceable
from mmray.errors import EngineError, ModelError
from mmray.graphs import check_parity, export_graph
from mmray.importing.card import Card
from mmray.importing.finish import Finished, Say, finish, log
from mmray.importing.load import one_line
from mmray.models.fused import FEATURES_ONLY, OUTPUTS


def import_torch(model: nn.Module, card: Card, output: Path, *, say: Say = log.info) -> Bundle:
    """Make a bundle from a fused torch module.

    `mmray.models.fused.FusedModel` makes one from encoders. Any other module is called with the same inputs
    by name (`present`, `pixels`, ...), without those of modalities that the card's spec lacks.

    Args:
        model: gives logits and scores, float32 [B, C], and features, float32 [B, D]; or, if the card has
            no labels, only the features.
        card: preprocessing, labels and tokenizer.
        output: the bundle's directory; its name becomes the bundle's.
        say: gets progress messages.

    Raises:
        ModelError: torch cannot export the module, or its outputs do not fit the card.
        EngineError: the exported graph is not equal to the module.
        BundleError: `output` exists and is not a bundle.
    """
    check_replaceable(output)
    names = OUTPUTS if card.labels else FEATURES_ONLY
    frozen = model.eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / "fused.onnx"
        try:
            export_graph(frozen, card.spec, graph, names)
        except EngineError:
            raise
        except Exception as e:  # torch's exporter raises any error of the module's code
            raise ModelError(
                f"{type(model).__name__}: torch cannot export it: {one_line(e)}; its forward must take "
                f"{', '.join(card.spec.modalities)} as FusedModel does, give {', '.join(names)}, and not "
                "branch on values or on numbers of rows"
            ) from e
        say(f"exported {type(model).__name__}, {graph.stat().st_size / 1e6:.1f} MB")
        made = Finished(graph, type(model).__name__, lambda path, cases: check_parity(frozen, path, cases))
        return finish(made, card, output, say)
