"""Torch modules → a bundle: export, proof, bundle. Trains nothing; `mmray.importing.build` trains a head."""

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
    """Make a bundle of a fused torch module.

    Encoders become one by `mmray.models.fused.FusedModel`. Any other module is called with what that takes,
    by name (`present`, `pixels`, ...), without the inputs of modalities that the card's spec lacks.

    Args:
        model: gives logits and scores, float32 [B, C], and features, float32 [B, D]; or, where the card has
            no labels, the features alone.
        card: preprocessing, labels and tokenizer.
        output: the bundle's directory; its name becomes the bundle's.
        say: told what was done, a line at a time.

    Raises:
        ModelError: torch cannot export the module, or what it gives does not fit the card.
        EngineError: the exported graph is not equal to the module.
        BundleError: there is something else than a bundle at `output`.
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
        except Exception as e:  # torch's exporter raises whatever the module's code meets
            raise ModelError(
                f"{type(model).__name__}: torch cannot export it: {one_line(e)}; its forward must take "
                f"{', '.join(card.spec.modalities)} as FusedModel does, give {', '.join(names)}, and not "
                "branch on values or on numbers of rows"
            ) from e
        say(f"exported {type(model).__name__}, {graph.stat().st_size / 1e6:.1f} MB")
        made = Finished(graph, type(model).__name__, lambda path, cases: check_parity(frozen, path, cases))
        return finish(made, card, output, say)
