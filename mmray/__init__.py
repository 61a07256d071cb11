"""mmray: distributed multimodal batch inference with Ray Data and ONNX Runtime.

    import mmray

    predict = mmray.Predictor("bundles/stamps")
    predict([{"image": open("cat.jpg", "rb").read(), "text": "a cat on a sofa"}])

The names below are imported at first use, so that this import is fast. `docs/python.md` shows them in five
short programs.
"""

from typing import TYPE_CHECKING

from mmray.lazy import lazily

if TYPE_CHECKING:
    from mmray.api.datasets import read as read
    from mmray.api.jobs import Finished as Finished
    from mmray.api.jobs import run as run
    from mmray.api.predictor import Predictor as Predictor
    from mmray.api.predictor import open_bundle as open_bundle
    from mmray.api.serving import serve_app as serve_app
    from mmray.bundle import Bundle as Bundle
    from mmray.errors import MmrayError as MmrayError

__version__ = "0.1.0"

_PLACES = {
    "Bundle": "mmray.bundle",
    "Finished": "mmray.api.jobs",
    "MmrayError": "mmray.errors",
    "Predictor": "mmray.api.predictor",
    "open_bundle": "mmray.api.predictor",
    "read": "mmray.api.datasets",
    "run": "mmray.api.jobs",
    "serve_app": "mmray.api.serving",
}
__all__ = ["__version__", *_PLACES]
__getattr__ = lazily(__name__, _PLACES)


def __dir__() -> list[str]:
    return sorted(__all__)
