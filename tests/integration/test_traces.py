"""A request through the real server: one trace, from the caller's own span to the inference."""

import http.server
import json
import threading
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


class Collector(http.server.BaseHTTPRequestHandler):
    """A collector of OpenTelemetry's protocol over HTTP."""

    def do_POST(self):
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.long
def test_a_collector_is_sent_the_spans(tmp_path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter", reason="of the extra otel")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        collector.spans = []
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{collector.server_port}"
        options = ["--traces", "otlp"]
        with serving(tmp_path / "log", options, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as (_, url):
            assert httpx.post(f"{url}/v1/predict", json={"text": "a red cat"}).status_code == 200
            deadline = time.monotonic() + 30
            while not {span.name for span in collector.spans} >= OURS:
                assert time.monotonic() < deadline, collector.spans
                time.sleep(0.2)
        collector.shutdown()
    assert len({span.trace_id for span in collector.spans}) == 1


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
    [request] = [span for span in spans if span["parent_id"] == f"0x{CALLER}"]
    assert request["attributes"]["http.status_code"] == "200"
    ours = [span for span in spans if span["name"] in OURS]
    assert {span["parent_id"] for span in ours} == {request["context"]["span_id"]}
    timed = {span["name"]: (span["start_time"], span["end_time"]) for span in spans}
    ordered = ["body", "parse", "queue", "preprocess", "infer"]
    starts = [timed[name][0] for name in ordered]
    assert starts == sorted(starts)
    said = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["message"] for line in said][-1] == "finishing open requests"
