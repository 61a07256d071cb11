"""Traces of requests (OpenTelemetry).

Serve makes a span for each request, below the `traceparent` of its head. Below that are our spans: arrival of
the body, parsing, waiting for a batch, preprocessing, inference. Serve calls `otlp` or `files` in each of its
processes. Without a destination nothing is traced.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from time import time_ns

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from ray.serve.schema import TracingConfig

from mmray.errors import UsageError

OTLP = "otlp"
_DIRECTORY = "MMRAY_TRACES"  # an environment variable, which Serve's processes inherit
_tracer = trace.get_tracer("mmray.serve")


def span(name: str) -> AbstractContextManager[trace.Span]:
    """A span around the body, in the request's trace."""
    return _tracer.start_as_current_span(name)


def answered(start_ns: int, *, preprocess_s: float, model_s: float, records: int) -> None:
    """Three spans that end now: the wait for a batch, its preprocessing, its inference.

    Both durations are of the batch, which several requests share; for a cascade, sums over its stages.

    Args:
        start_ns: Unix time at which the request began to wait.
        preprocess_s: of its batch.
        model_s: of its batch.
        records: of the request.
    """
    if not trace.get_current_span().is_recording():
        return
    end_ns = time_ns()
    infers_ns = end_ns - int(1e9 * model_s)
    prepares_ns = infers_ns - int(1e9 * preprocess_s)
    marks = {"queue": max(start_ns, prepares_ns), "preprocess": infers_ns, "infer": end_ns}
    for name, until_ns in marks.items():
        part = _tracer.start_span(name, start_time=start_ns, attributes={"mmray.records": records})
        part.end(until_ns)
        start_ns = until_ns


def config(destination: str | None, share: float) -> TracingConfig | None:
    """Serve's tracing config; also sets the environment for its processes.

    Args:
        destination: "otlp": to $OTEL_EXPORTER_OTLP_ENDPOINT; else a directory, created if missing.
        share: of the requests without a `traceparent`; those with one decide themselves.

    Raises:
        UsageError: no exporter is installed, or the directory cannot be made.
    """
    if destination is None:
        return None
    if destination == OTLP:
        try:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401  (to check that it is installed)
        except ImportError as e:
            raise UsageError("--traces otlp: no exporter is installed; pip install 'mmray[otel]'") from e
    else:
        folder = Path(destination).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise UsageError(
                f"--traces {destination}: cannot create this directory ({e.strerror}); choose another one"
            ) from e
        os.environ[_DIRECTORY] = str(folder)
    exporter = otlp if destination == OTLP else files
    return TracingConfig(
        enabled=True, exporter_import_path=f"{__name__}:{exporter.__name__}", sampling_ratio=share
    )


def otlp() -> list[SpanProcessor]:
    """Sends spans by OTLP over HTTP, as the variables OTEL_EXPORTER_OTLP_* say; needs mmray[otel]."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return [BatchSpanProcessor(OTLPSpanExporter())]


def files() -> list[SpanProcessor]:
    """Writes spans to a file of the process, one JSON object a line, in the directory of `config`."""
    file = Path(os.environ[_DIRECTORY]).joinpath(f"{os.getpid()}.jsonl").open("a", buffering=1)
    return [BatchSpanProcessor(ConsoleSpanExporter(out=file, formatter=lambda one: one.to_json(None) + "\n"))]
