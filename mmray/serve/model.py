"""The model of a replica behind a dynamic batch: whoever waits while one inference runs shares the next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmray.bundle import Bundle
from mmray.engine import best_provider
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.spec import PreprocessSpec
from mmray.schema import Modality
from mmray.serve.compute import Compute
from mmray.serve.gathering import Gathering
from mmray.serve.metrics import Metrics
from mmray.serve.probe import known_work, same
from mmray.serve.settings import ServeSettings
from mmray.serve.work import Answered, Work, prepare, share_out
from mmray.shapes import server_ladder

# A token costs MiniLM what 1,300 pixels cost EfficientNet-Lite0 and 480 log-mel values cost YAMNet, whose
# patches overlap by half (multiply-adds: 10.6 M a token, 0.4 G an image, 69 M a patch). Roughly is enough.
_PIXELS_A_TOKEN, _MEL_VALUES_A_TOKEN = 1300, 480
# Of bytes that are not yet decoded: English has about four to a token, Vorbis 10 kB to a second of sound.
_TEXT_BYTES_A_TOKEN, _SOUND_BYTES_A_TOKEN = 4, 770
# In tokens: a picture of 224 x 224, a caption, four seconds of sound.
_USUAL_RECORD = 100

Answer = Callable[[Work], Awaitable[Answered]]


@dataclass(frozen=True)
class Inferred:
    """What became of the rows of one table of TENSORS."""

    rows: list[dict[str, Any]]  # of OUTCOMES
    decode_s: float  # both are of the inference that they shared with others
    model_s: float


@dataclass(frozen=True)
class Described:
    """What whoever preprocesses for a model must know of it."""

    variant: str
    later: tuple[Modality, ...]  # that not every record needs


def cost(tensors: pa.Table) -> int:
    """Work of an inference, in tokens of text."""
    pixels = _bytes(tensors["pixels"]) // 3
    tokens = pc.sum(pc.list_value_length(tensors["input_ids"])).as_py() or 0
    mel_values = _bytes(tensors["log_mel"]) // 2
    return int(tokens + pixels // _PIXELS_A_TOKEN + mel_values // _MEL_VALUES_A_TOKEN)


def likely_cost(work: Work, spec: PreprocessSpec) -> int:
    """The same of records that are not yet decoded, as far as their bytes tell."""
    tokens = 0
    for item in work.items:
        sizes = {m: len(data) for m, data in item.members.items()}
        if "image" in sizes and spec.image:
            tokens += spec.image.height * spec.image.width // _PIXELS_A_TOKEN
        if "text" in sizes and spec.text:
            tokens += min(spec.text.max_tokens, 2 + sizes["text"] // _TEXT_BYTES_A_TOKEN)
        if "audio" in sizes and spec.audio:
            frames = spec.audio.max_s * spec.audio.sample_rate / spec.audio.hop
            most = int(frames * spec.audio.mel_bins) // _MEL_VALUES_A_TOKEN
            tokens += min(most, sizes["audio"] // _SOUND_BYTES_A_TOKEN)
    return max(1, tokens * (len(item.members) if work.explain else 1))


def _bytes(column: pa.ChunkedArray) -> int:
    return pc.sum(pc.binary_length(column)).as_py() or 0


class BatchedModel:
    """A loaded model. Its batches are bounded by cost, so that long sounds do not make short texts wait.

    Args:
        bundle: an opened bundle.
        settings: of the server.
        compute: where it computes, one batch at a time; the event loop stays free.
        metrics: that it counts in.
    """

    def __init__(self, bundle: Bundle, settings: ServeSettings, compute: Compute, metrics: Metrics) -> None:
        # Loading it runs the golden inputs: whoever is ready is warm, and right.
        on_device = best_provider() != "cpu"
        self._predict = Predictor(
            bundle,
            variant=settings.variant,
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
        #: Preprocess and infer: the records of all who wait, in one go.
        self.answer: Answer = Gathering(
            self._answer, lambda work: likely_cost(work, bundle.spec), most, wait_s
        )
        #: Infer alone, what another replica has preprocessed.
        self.infer: Callable[[pa.Table], Awaitable[Inferred]] = Gathering(self._infer, cost, most, wait_s)
        self._known = known_work(bundle.spec, explain=self._predict.stages > 1)
        [self._known_answer] = self._compute([self._known])

    def describe(self) -> Described:
        return Described(self._predict.variant, self._predict.later)

    async def check_health(self) -> None:
        """The model answers; where no request has shown it of late, a record of our own does.

        Raises:
            EngineError: it failed, hangs, or answers otherwise than when it was loaded.
        """
        await self._on_thread.check(self._probe)

    async def _probe(self) -> None:
        if not same(await self.answer(self._known), self._known_answer):
            self._on_thread.fail("the model answers a known record otherwise than when it was loaded")

    async def _answer(self, works: list[Work]) -> list[Answered]:
        return await self._on_thread(lambda: self._compute(works))

    def _compute(self, works: list[Work]) -> list[Answered]:
        start = perf_counter()
        prepared = prepare(self._preprocess, self._predict.later, works)
        prepare_s = perf_counter() - start
        found = self._run(prepared.tensors)
        return share_out(
            works,
            prepared,
            found.rows,
            preprocess_s=prepare_s + found.decode_s,
            model_s=found.model_s,
        )

    async def _infer(self, tables: list[pa.Table]) -> list[Inferred]:
        found = await self._on_thread(lambda: self._run(pa.concat_tables(tables)))
        answers, start = [], 0
        for table in tables:
            rows = found.rows[start : start + table.num_rows]
            answers.append(Inferred(rows, found.decode_s, found.model_s))
            start += table.num_rows
        return answers

    def _run(self, tensors: pa.Table) -> Inferred:
        start = perf_counter()
        rows: list[dict[str, Any]] = self._predict(tensors, self._preprocess.complete).to_pylist()
        whole_s = perf_counter() - start
        model_s = self._predict.seconds["model"]
        self._predict.seconds.clear()
        self._preprocess.seconds.clear()
        self._note(rows)
        self._metrics.batch_rows.observe(len(rows))
        self._metrics.count_device(*self._predict.occupied)
        return Inferred(rows, max(0.0, whole_s - model_s), model_s)

    def _note(self, rows: list[dict[str, Any]]) -> None:
        errors = [row["error"] for row in rows]
        if any(error and error["stage"] == "infer" for error in errors):
            self._on_thread.doubt()  # a record that the model cannot bear, or the model
        elif None in errors:
            self._on_thread.proved()
