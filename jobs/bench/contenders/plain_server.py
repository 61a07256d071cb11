"""A server without Ray: FastAPI, two uvicorn workers, an ONNX Runtime session in each.

    BUNDLE=bundles/stamps uvicorn plain_server:app --workers 2 --app-dir jobs/bench/contenders

The same graph and the same preprocessing functions, one thread a worker, no batching, no limits, no queue. A
request is computed on the event loop: a thread for it would only add a hop.
"""

import os
from typing import Any

import onnxruntime as ort
from fastapi import FastAPI, Request

from mmray.batching import pack
from mmray.bundle import Bundle
from mmray.predictor import open_preprocessor
from mmray.schema import RECORDS, table

app = FastAPI()
bundle = Bundle.open(os.environ["BUNDLE"])
preprocess = open_preprocessor(bundle)
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(
    bundle.graph(os.environ.get("VARIANT", "fp32")), options, providers=["CPUExecutionProvider"]
)
inputs = {value.name for value in session.get_inputs()}


@app.post("/v1/predict")
async def predict(request: Request) -> dict[str, Any]:
    """Multipart image, text, audio → label and scores."""
    form = await request.form()
    members = {name: [v.encode() if isinstance(v, str) else await v.read()] for name, v in form.items()}
    tensors = preprocess(table(members, RECORDS))
    feeds = pack(tensors, bundle.spec)
    (scores,) = session.run(["scores"], {name: feeds[name] for name in inputs})
    ranked = sorted(zip(bundle.labels, scores[0].tolist(), strict=True), key=lambda pair: -pair[1])
    return {"label": ranked[0][0], "scores": dict(ranked)}
