"""The model of a replica with dynamic batching: requests that wait for one inference share the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.bundle import Bundle
from mmray.engine import ON_CPU, Provider, best_provider
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality
from mmray.serve.compute import Compute
from mmray.serve.gathering import Gathering
from mmray.serve.metrics import Metrics
from mmray.serve.probe import known_work, same
from mmray.serve.settings import ServeSettings
from mmray.serve.stages import Inferred, Part, parts, to_the_end
from mmray.serve.watching import DailyWatch
from mmray.serve.work import Answered, Work, answer_of, prepare
from mmray.shapes import server_ladder

# A token costs MiniLM what 1,300 pixels cost EfficientNet-Lite0 and 480 log-mel values cost YAMNet, whose
# patches overlap by half (multiply-adds: 10.6 M a token, 0.4 G an image, 69 M a patch). An estimate is
# enough.
_PIXELS_A_TOKEN, _MEL_VALUES_A_TOKEN = 1300, 480
# For undecoded bytes: English has about four to a token, Vorbis 10 kB to a second of sound.
_TEXT_BYTES_A_TOKEN, _SOUND_BYTES_A_TOKEN = 4, 770
# In tokens: a picture of 224 x 224, a caption, four seconds of sound.
_USUAL_RECORD = 100

Answer = Callable[[Work], Awaitable[Answered]]


@dataclass(frozen=True)
class Described:
    """What preprocessing needs to know about the model."""

    variant: str
    later: tuple[Modality, ...]  # that not every record needs


def cost(tensors: pa.Table) -> int:
    """Work of an inference, in tokens of text."""
    pixels = _bytes(tensors["pixels"]) // 3
    tokens = pc.sum(pc.list_value_length(tensors["input_ids"])).as_py() or 0
    mel_values = _bytes(tensors["log_mel"]) // 2
    return int(tokens + pixels // _PIXELS_A_TOKEN + mel_values // _MEL_VALUES_A_TOKEN)


def likely_cost(work: Work, spec: PreprocessSpec) -> int:
    """The same for undecoded records, estimated from their bytes."""
    tokens = sum(_likely_tokens({m: len(data) for m, data in i.members.items()}, spec) for i in work.items)
    return max(1, tokens * (len(work.items[0].members) if work.explain else 1))


def open_cost(tensors: pa.Table, spec: PreprocessSpec) -> int:
    """The same for rows that a stage passed on, decoded or not."""
    lengths = {m: pc.binary_length(tensors[m]).to_pylist() for m in spec.modalities}
    tokens = cost(tensors)
    for i in range(tensors.num_rows):
        tokens += _likely_tokens({m: size[i] for m, size in lengths.items() if size[i] is not None}, spec)
    return max(1, tokens)


def _likely_tokens(sizes: Mapping[str, int], spec: PreprocessSpec) -> int:
    """Of one record, from its bytes by modality."""
    tokens = 0
    if "image" in sizes and spec.image:
        tokens += spec.image.height * spec.image.width // _PIXELS_A_TOKEN
    if "text" in sizes and spec.text:
        tokens += min(spec.text.max_tokens, 2 + sizes["text"] // _TEXT_BYTES_A_TOKEN)
    if "audio" in sizes and spec.audio:
        frames = spec.audio.max_s * spec.audio.sample_rate / spec.audio.hop
        most = int(frames * spec.audio.mel_bins) // _MEL_VALUES_A_TOKEN
        tokens += min(most, sizes["audio"] // _SOUND_BYTES_A_TOKEN)
    return tokens


def _bytes(column: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(column)).as_py() or 0


class BatchedModel:
    """A loaded model. Its batches are bounded by cost, so that long sounds do not make short texts wait.

    Args:
        bundle: an opened bundle.
        settings: of the server.
        compute: the thread for its work, one batch at a time; the event loop stays free.
        metrics: for its counts.
        provider: where to run.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: ServeSettings,
        compute: Compute,
        metrics: Metrics,
        provider: Provider = "auto",
    ) -> None:
        # Loading runs the golden inputs: a ready replica is warm and has passed its self-test.
        on_device = provider not in ON_CPU and best_provider() != "cpu"
        self._predict = Predictor(
            bundle,
            variant=settings.variant,
            provider=provider,
            abstain=settings.abstain,
            threads=1,
            batch_rows=settings.batch_rows,
            ladder=server_ladder(bundle.spec, settings.batch_rows) if on_device else None,
            shared=True,
        )
        self._predict.warm()  # before the replica is ready, so that no request waits for planning
        self._preprocess = open_preprocessor(
            bundle, limits=settings.limits, foreign_text=settings.foreign_text
        )
        self._on_thread = compute
        self._metrics = metrics
        most, wait_s = settings.batch_rows * _USUAL_RECORD, settings.batch_wait_s
        # The records of all waiting requests in one batch; in a cascade, the rows of earlier stages.
        self._begin: Gathering[Work, tuple[list[Modality], Part]] = Gathering(
            self._prepare_and_step, lambda work: likely_cost(work, bundle.spec), most, wait_s
        )
        self._first: Gathering[pa.Table, Part] = Gathering(partial(self._step, 1), cost, most, wait_s)
        self._later: list[Gathering[pa.Table, Part]] = [
            Gathering(partial(self._step, number), lambda table: open_cost(table, bundle.spec), most, 0.0)
            for number in range(2, self._predict.stages + 1)
        ]
        reference = bundle.reference and bundle.reference.variants.get(self._predict.variant)
        self._watch = DailyWatch(reference, metrics) if reference else None
        self._known = known_work(bundle.spec, explain=self._predict.stages > 1)
        self._known_answer = self._at_once(self._known)

    def describe(self) -> Described:
        return Described(self._predict.variant, self._predict.later)

    async def check_health(self) -> None:
        """The model answers, as shown by recent requests, or else by a probe record.

        Raises:
            EngineError: it failed, hangs, or answers differently than when it was loaded.
        """
        await self._on_thread.check(self._probe)

    async def _probe(self) -> None:
        if not same(await self.answer(self._known), self._known_answer):
            self._on_thread.fail("the model answers a known record differently than when it was loaded")

    async def answer(self, work: Work) -> Answered:
        """Preprocess and infer.

        Raises:
            EngineError: the engine failed, which is not a record's fault.
        """
        left, part = await self._begin(work)
        found = await to_the_end(part, self._later)
        return answer_of(work, left, found.rows, preprocess_s=found.decode_s, model_s=found.model_s)

    async def infer(self, tensors: pa.Table) -> Inferred:
        """Only infer what another replica has preprocessed."""
        return await to_the_end(await self._first(tensors), self._later)

    async def _prepare_and_step(self, works: list[Work]) -> list[tuple[list[Modality], Part]]:
        def run() -> list[tuple[list[Modality], Part]]:
            start = perf_counter()
            prepared = prepare(self._preprocess, self._predict.later, works)
            found = self._run(1, prepared.tensors, prepared.rows, perf_counter() - start)
            return list(zip(prepared.left, found, strict=True))

        return await self._on_thread(run)

    async def _step(self, number: int, tables: list[pa.Table]) -> list[Part]:
        ends = np.cumsum([table.num_rows for table in tables])
        rows_of = np.split(np.arange(ends[-1]), ends[:-1])
        return await self._on_thread(lambda: self._run(number, pa.concat_tables(tables), rows_of))

    def _run(
        self,
        number: int,
        tensors: pa.Table,
        rows_of: Sequence[npt.NDArray[np.int64]],
        prepare_s: float = 0.0,
    ) -> list[Part]:
        """One stage for the rows of several calls."""
        start = perf_counter()
        step = self._predict.step(number, tensors, self._preprocess.complete)
        whole_s = perf_counter() - start
        model_s = self._predict.seconds["model"]
        self._predict.seconds.clear()
        self._preprocess.seconds.clear()
        self._note(step.answered["error"].to_pylist())
        self._metrics.batch_rows.observe(tensors.num_rows)
        self._metrics.count_device(*self._predict.occupied)
        if self._watch and (seen := self._predict.take_drift()) is not None:
            self._watch.add(seen)
        return parts(step, rows_of, decode_s=prepare_s + max(0.0, whole_s - model_s), model_s=model_s)

    def _at_once(self, work: Work) -> Answered:
        """The answer to one work, on this thread."""
        prepared = prepare(self._preprocess, self._predict.later, [work])
        rows = self._predict(prepared.tensors, self._preprocess.complete).to_pylist()
        self._predict.seconds.clear()
        return answer_of(work, prepared.left[0], rows, preprocess_s=0.0, model_s=0.0)

    def _note(self, errors: list[dict[str, str] | None]) -> None:
        if any(error and error["stage"] == "infer" for error in errors):
            self._on_thread.doubt()  # caused by a record, or by the model
        elif None in errors:
            self._on_thread.proved()
