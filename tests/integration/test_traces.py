"""A request through the real server: one trace, from the caller's own span to the inference."""

import json
import time

import httpx
import pytest
from support.processes import serving, wait_for_none

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OURS = {"body", "parse", "queue", "preprocess", "infer"}


def whole_trace(folder):
    """Its spans, once ours are there and all that they are below: processes write some seconds later."""
    deadline = time.monotonic() + 30
    while True:
        lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
        spans = [json.loads(line) for line in lines]
        ids = {span["context"]["span_id"] for span in spans} | {f"0x{CALLER}"}
        if {span["name"] for span in spans} >= OURS and all(span["parent_id"] in ids for span in spans):
            return spans
        assert time.monotonic() < deadline, spans
        time.sleep(0.2)


@pytest.mark.parametrize("topology", ["fused", pytest.param("split", marks=pytest.mark.long)])
def test_the_callers_trace_goes_on_to_the_inference(tmp_path, topology):
    log, traces = tmp_path / "log", tmp_path / "traces"
    options = ["--traces", str(traces), "--trace-share", "0", "--log-format", "json"]
    options += ["--topology", topology, "--set", "cpus=0.5"]
    with serving(log, options) as (process, url):
        body = {"text": "a red cat"}
        assert httpx.post(f"{url}/v1/predict", json=body).status_code == 200  # of no trace, and not sampled
        asked = httpx.post(f"{url}/v1/predict", json=body, headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
        assert asked.status_code == 200
        spans = whole_trace(traces)
        process.terminate()
        assert process.wait(60) == 0
        wait_for_none(process.pid)
    assert {span["context"]["trace_id"] for span in spans} == {f"0x{TRACE}"}
    timed = {span["name"]: (span["start_time"], span["end_time"]) for span in spans}
    ordered = ["body", "parse", "queue", "preprocess", "infer"]
    starts = [timed[name][0] for name in ordered]
    assert starts == sorted(starts)
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in said][-1] == "finishing what was begun"
