"""The Serve deployments, in the batch job's two topologies.

fused (CPU-only): each replica preprocesses and infers on one thread, all waiting requests in one batch.
split (accelerators): replicas on CPUs preprocess, for replicas that hold the model on an accelerator.
"""

from __future__ import annotations

import asyncio
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
from mmray.serve.compute import Compute
from mmray.serve.metrics import Metrics
from mmray.serve.model import BatchedModel, Described
from mmray.serve.probe import known_work
from mmray.serve.problems import RETRY_AFTER_S
from mmray.serve.routes import web_app
from mmray.serve.service import Service
from mmray.serve.settings import ServeSettings
from mmray.serve.shadowing import Shadowing
from mmray.serve.stages import Inferred
from mmray.serve.work import Answered, Prepared, Work, answer_of, prepare

_UPSCALE_S, _DOWNSCALE_S = 5.0, 60.0  # during which more, or fewer, replicas were needed
_WAITS = 2  # the current batch, and the next
_READY_S = 2.0  # for the model's process to report it
_CHECKS = 5  # an answer counts for so many health checks; a check may take as long


class _Fused:
    """Ingress, preprocessing and model in one process."""

    def __init__(
        self,
        settings: ServeSettings,
        tokens: frozenset[bytes],
        canary: DeploymentHandle[Any] | None = None,
    ) -> None:
        bundle = Bundle.open(settings.bundle)
        compute, metrics = _thread("compute", settings), Metrics()
        self._model = BatchedModel(bundle, settings, compute, metrics)

        async def ready() -> None:
            compute.check_ready()

        variant = self._model.describe().variant
        shadowing = _shadowing(settings, canary, metrics)
        service = Service(bundle, settings, self._model.answer, ready, variant, compute, metrics, shadowing)
        self._app = web_app(service, tokens)

    async def check_health(self) -> None:
        await self._model.check_health()

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: PLW3201, RUF100  (Serve's name)
        return self._app


class _Front:
    """Ingress and preprocessing, before the replicas of the model."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: ServeSettings,
        tokens: frozenset[bytes],
        model: DeploymentHandle[Any],
        canary: DeploymentHandle[Any] | None = None,
    ) -> None:
        bundle = Bundle.open(settings.bundle)
        preprocess = open_preprocessor(bundle, limits=settings.limits, foreign_text=settings.foreign_text)
        self._compute = compute = _thread("preprocess", settings)
        about: Described = await model.describe.remote()
        known, timeout_s = known_work(bundle.spec, explain=False), settings.compute_timeout_s

        def prepared(work: Work) -> tuple[Prepared, float]:
            start = perf_counter()
            return prepare(preprocess, about.later, [work]), perf_counter() - start

        async def answer(work: Work) -> Answered:
            ready, prepare_s = await compute(lambda: prepared(work))
            compute.proved()
            # It has its own time-out for current work; this one is for a process that does not answer.
            found: Inferred = await asyncio.wait_for(model.infer.remote(ready.tensors), _WAITS * timeout_s)
            preprocess_s = prepare_s + found.decode_s
            left = ready.left[0]
            return answer_of(work, left, found.rows, preprocess_s=preprocess_s, model_s=found.model_s)

        async def prepares() -> None:
            await compute(lambda: prepared(known))
            compute.proved()

        async def ready() -> None:
            compute.check_ready()
            await asyncio.wait_for(model.check_ready.remote(), _READY_S)

        self._prepares = prepares
        metrics = Metrics()
        shadowing = _shadowing(settings, canary, metrics)
        service = Service(bundle, settings, answer, ready, about.variant, compute, metrics, shadowing)
        self._app = web_app(service, tokens)

    async def check_health(self) -> None:
        await self._compute.check(self._prepares)

    def __serve_build_asgi_app__(self) -> FastAPI:  # noqa: PLW3201, RUF100  (Serve's name)
        return self._app


class _Model:
    """Only the model."""

    def __init__(self, settings: ServeSettings) -> None:
        self._compute = _thread("model", settings)
        self._model = BatchedModel(Bundle.open(settings.bundle), settings, self._compute, Metrics())

    def describe(self) -> Described:
        return self._model.describe()

    async def infer(self, tensors: pa.Table) -> Inferred:
        return await self._model.infer(tensors)

    def check_ready(self) -> None:
        self._compute.check_ready()

    async def check_health(self) -> None:
        await self._model.check_health()


class _Canary:
    """The whole second bundle, for comparisons."""

    def __init__(self, settings: ServeSettings) -> None:
        self._compute = _thread("canary", settings)
        # If the node has a device, the first bundle uses it.
        self._model = BatchedModel(
            Bundle.open(settings.bundle), settings, self._compute, Metrics(), provider="cpu"
        )

    async def labels(self, work: Work) -> list[str | None]:
        return [row["label"] for row in (await self._model.answer(work)).rows]

    async def check_health(self) -> None:
        await self._model.check_health()


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
    canary = _canary(settings)
    if fused:
        fused_class = serve.deployment(name="Fused", ray_actor_options=on_cpu, **options)(
            serve.ingress()(_Fused)
        )
        return fused_class.bind(settings, tokens, canary)
    on_device = {"num_cpus": 0, "num_gpus": 1} if gpus else on_cpu
    model = serve.deployment(name="Model", ray_actor_options=on_device, **options)(_Model)
    front = serve.deployment(name="Front", ray_actor_options=on_cpu, **options)(serve.ingress()(_Front))
    return front.bind(settings, tokens, model.bind(settings), canary)


def _canary(settings: ServeSettings) -> Application | None:
    """One replica on a CPU, independent of the first bundle's device."""
    if settings.canary is None:
        return None
    asked = settings.canary
    own = settings.model_copy(
        update={
            "bundle": asked.bundle,
            "variant": asked.variant,
            "abstain": "never",
            "canary": None,
            "min_replicas": 1,
            "max_replicas": 1,
        }
    )
    options = _options(own) | {"ray_actor_options": {"num_cpus": settings.cpus}}
    return serve.deployment(name="Canary", **options)(_Canary).bind(own)


def _shadowing(
    settings: ServeSettings, canary: DeploymentHandle[Any] | None, metrics: Metrics
) -> Shadowing | None:
    if settings.canary is None or canary is None:
        return None

    async def ask(work: Work) -> list[str | None]:
        labels: list[str | None] = await asyncio.wait_for(
            canary.labels.remote(work), _WAITS * settings.compute_timeout_s
        )
        return labels

    return Shadowing(ask, settings.canary.share, metrics)


def _thread(name: str, settings: ServeSettings) -> Compute:
    return Compute(name, settings.compute_timeout_s, _CHECKS * settings.health_check_period_s)


def _options(settings: ServeSettings) -> dict[str, Any]:
    bound = settings.requests_in_flight + settings.bodies_arriving
    options: dict[str, Any] = {
        # A replica refuses requests above its limit itself, with a problem that says so. Serve's own queue,
        # which refuses with plain text, fills only while replicas start or die. Behind HAProxy it is in the
        # replica and reads bodies of waiting requests without a limit, so it must stay empty.
        "max_ongoing_requests": 2 * bound,
        "max_queued_requests": 2 * bound,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S),
        "graceful_shutdown_timeout_s": settings.drain_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        # After three consecutive failures, Serve replaces the replica.
        "health_check_period_s": settings.health_check_period_s,
        "health_check_timeout_s": _CHECKS * settings.health_check_period_s,
        "logging_config": LoggingConfig(
            enable_access_log=False
        ),  # a tenth of a millisecond each; see Metrics
        "max_surge_percent": 100,  # old replicas serve until new ones, perhaps with another bundle, are warm
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
