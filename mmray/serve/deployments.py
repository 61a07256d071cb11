"""The Serve deployments, in the batch job's two topologies.

fused (CPU-only): each replica preprocesses and infers on one thread, all who wait in one go.
split (accelerators): replicas on CPUs preprocess, for replicas that hold the model on an accelerator.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import pyarrow as pa
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from mmray.bundle import Bundle
from mmray.predictor import open_preprocessor
from mmray.serve.metrics import Metrics
from mmray.serve.model import BatchedModel, Described, Inferred
from mmray.serve.problems import RETRY_AFTER_S
from mmray.serve.routes import web_app
from mmray.serve.service import Service
from mmray.serve.settings import ServeSettings
from mmray.serve.work import Answered, Prepared, Work, prepare, share_out

_UPSCALE_S, _DOWNSCALE_S = 5.0, 60.0  # that more, or fewer, replicas have been wanted


class _Fused:
    """Ingress, preprocessing and model in one process."""

    def __init__(self, settings: ServeSettings, tokens: frozenset[bytes]) -> None:
        bundle = Bundle.open(settings.bundle)
        thread, metrics = ThreadPoolExecutor(1, "compute"), Metrics()
        model = BatchedModel(bundle, settings, thread, metrics)
        service = Service(bundle, settings, model.answer, model.describe().variant, thread, metrics)
        self._app = web_app(service, tokens)

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: PLW3201, RUF100  (Serve's name)
        return self._app


class _Front:
    """Ingress and preprocessing, before the replicas of the model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: ServeSettings, tokens: frozenset[bytes], model: DeploymentHandle[Any]
    ) -> None:
        bundle = Bundle.open(settings.bundle)
        preprocess = open_preprocessor(bundle, limits=settings.limits)
        thread = ThreadPoolExecutor(1, "preprocess")
        about: Described = await model.describe.remote()

        def prepared(work: Work) -> tuple[Prepared, float]:
            start = perf_counter()
            return prepare(preprocess, about.later, [work]), perf_counter() - start

        async def answer(work: Work) -> Answered:
            ready, prepare_s = await asyncio.get_running_loop().run_in_executor(thread, prepared, work)
            found: Inferred = await model.infer.remote(ready.tensors)
            preprocess_s = prepare_s + found.decode_s
            [answered] = share_out(
                [work], ready, found.rows, preprocess_s=preprocess_s, model_s=found.model_s
            )
            return answered

        self._app = web_app(Service(bundle, settings, answer, about.variant, thread, Metrics()), tokens)

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: PLW3201, RUF100  (Serve's name)
        return self._app


class _Model:
    """The model alone."""

    def __init__(self, settings: ServeSettings) -> None:
        thread = ThreadPoolExecutor(1, "model")
        self._model = BatchedModel(Bundle.open(settings.bundle), settings, thread, Metrics())

    def describe(self) -> Described:
        return self._model.describe()

    async def infer(self, tensors: pa.Table) -> Inferred:
        return await self._model.infer(tensors)


def application(settings: ServeSettings, tokens: frozenset[bytes], *, gpus: bool) -> Application:
    """One bundle as a Serve application.

    Args:
        settings: of the bundle; "auto" is resolved here.
        tokens: sha256 of each token that opens it; none: open to all.
        gpus: whether the cluster has accelerators.
    """
    fused = settings.topology == "fused" or (settings.topology == "auto" and not gpus)
    options = _options(settings)
    on_cpu: dict[str, Any] = {"num_cpus": settings.cpus}
    if fused:
        fused_class = serve.deployment(name="Fused", ray_actor_options=on_cpu, **options)(
            serve.ingress()(_Fused)
        )
        return fused_class.bind(settings, tokens)
    on_device = {"num_cpus": 0, "num_gpus": 1} if gpus else on_cpu
    model = serve.deployment(name="Model", ray_actor_options=on_device, **options)(_Model)
    front = serve.deployment(name="Front", ray_actor_options=on_cpu, **options)(serve.ingress()(_Front))
    return front.bind(settings, tokens, model.bind(settings))


def _options(settings: ServeSettings) -> dict[str, Any]:
    bound = settings.requests_in_flight + settings.bodies_arriving
    options: dict[str, Any] = {
        # What is above its bound a replica refuses by itself, with a problem that says so. Serve's own queue,
        # whose refusal is plain text, only fills while replicas start or die. Behind HAProxy it is in
        # the replica and reads bodies of those who wait without a bound, so it has to stay empty.
        "max_ongoing_requests": 2 * bound,
        "max_queued_requests": 2 * bound,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        "graceful_shutdown_timeout_s": settings.drain_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        "health_check_period_s": 2.0,
        "logging_config": LoggingConfig(
            enable_access_log=False
        ),  # a tenth of a millisecond each; see Metrics
        "max_surge_percent": 100,  # old replicas serve until new ones, with another bundle perhaps, are warm
    }
    if settings.min_replicas == settings.max_replicas:
        return options | {"num_replicas": settings.min_replicas}
    return options | {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=settings.batch_rows,
            # Ray's own are 30 s and ten minutes; a replica is warm after ten seconds, and holds a device.
            upscale_delay_s=_UPSCALE_S,
            downscale_delay_s=_DOWNSCALE_S,
        )
    }
