"""From a recipe to a bundle: prepare, run the teacher, train in phases, export, check, score, write."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmray.bundle import FP32, Bundle, check_replaceable, write_bundle
from mmray.engine import Engine
from mmray.errors import ConfigError, InputError
from mmray.evaluation import judge_selective, reference_from
from mmray.graphs import batch_cases, check_parity, export_graph, golden_records
from mmray.models.fused import FusedModel, PackedModel
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.sources import ReadOptions, Shard, list_shards, read
from mmray.training.batches import Batches
from mmray.training.curves import draw_curves
from mmray.training.frozen import frozen_features
from mmray.training.loop import Alone, Entry, Task, Workers
from mmray.training.model import (
    Design,
    build_model,
    design,
    fold_norms,
    frozen_modalities,
    start_gains,
)
from mmray.training.phases import load_start, run_phases
from mmray.training.prepared import Prepared, prepare
from mmray.training.recipe import TrainRecipe
from mmray.training.scores import score_outputs, subset_outputs
from mmray.training.teacher import Taught, ask_teacher

_RECIPE = "recipe.json"
_SCALED_ROWS = 256  # train records on which late fusion measures the scale of features
_SAMPLE_ROWS = 16  # records of the golden batch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Places:
    """Folders of a training."""

    work: Path  # checkpoints, history and curves of this training
    prepared: Path  # shared by trainings: preprocessed shards, frozen features, answers of teachers
    downloads: Path  # published weights


def train_bundle(recipe: TrainRecipe, output: Path, places: Places, *, workers: int = 1, say: Say) -> Bundle:
    """Train a recipe's model and write it as a bundle of one fp32 variant. Resumes an interrupted call.

    Args:
        recipe: the model and how it is trained.
        output: the bundle's directory; its name becomes the bundle's.
        places: folders of the training.
        workers: of one training, by Ray Train; 1 trains in this process, without Ray.
        say: gets progress messages.

    Raises:
        InputError: the shards have too few labelled records.
        ConfigError: another recipe was trained in the same folder, or its parts do not fit.
        BundleError: `output` exists and is not a bundle.
        EngineError: the exported graph is not equal to the model.
    """
    check_replaceable(output)
    _claim(places.work, recipe)
    training = Training(recipe, places, say)
    if workers > 1:
        from mmray.training.distributed import run_workers

        config = {
            "recipe": recipe.model_dump_json(),
            "places": [str(p.resolve()) for p in vars(places).values()],
        }
        run_workers(_train_as_worker, config, workers, str(places.work.resolve()))
    history = training.train(Alone(), say)
    draw_curves(history, places.work / "curves.png")
    return _write(training, output, history, say)


class Training:
    """Everything that a training needs, made or found on disk.

    Args:
        recipe: the model and how it is trained.
        places: folders of the training.
        say: gets progress messages.

    Raises:
        InputError: the shards have too few labelled records.
        ConfigError: weights to start from, or a teacher, do not fit.
    """

    def __init__(self, recipe: TrainRecipe, places: Places, say: Say) -> None:
        self.recipe, self.places = recipe, places
        places.work.mkdir(parents=True, exist_ok=True)
        self.design: Design = design(recipe, places.downloads, places.work)
        self.shards = list_shards(list(recipe.input))
        places.prepared.mkdir(parents=True, exist_ok=True)
        self.records = self._prepare(self.design, say)
        self.train_rows, self.tune_rows = self.records.of("train"), self.records.of("tune")
        self.classes = tuple(str(label) for label in np.unique(self.records.labels[self.train_rows]))
        if len(self.classes) < 2:
            raise InputError(
                f"{self.shards[0].url}: the train split has {len(self.classes)} labels with "
                f"{recipe.least_records} records or more; training needs two; add shards, or lower "
                "least_records"
            )
        usable = np.isin(self.records.labels, self.classes) & self.records.present.any(axis=1)
        self.records = self.records.take(usable)
        self.train_rows, self.tune_rows = self.records.of("train"), self.records.of("tune")
        self.model: PackedModel = build_model(recipe, self.design, len(self.classes), places.downloads)
        load_start(self.model, recipe)
        self.known = self._frozen()
        if not recipe.start:
            some = np.random.default_rng(recipe.seed).permutation(self.train_rows)[:_SCALED_ROWS]
            batches = self.batches(augmented=False, device=torch.device("cpu"))
            start_gains(self.model, recipe, batches.plain(some, _SCALED_ROWS // 4))
        self.taught = self._taught(say)

    def train(self, workers: Workers, say: Say) -> list[Entry]:
        """Run all phases; the model ends with its best weights."""
        return run_phases(self.task(workers, say), self.records)

    def task(self, workers: Workers, say: Say) -> Task:
        """The task of the training loop."""
        return Task(
            recipe=self.recipe,
            model=self.model.to(workers.device),
            batches=self.batches(augmented=self.recipe.augment, device=workers.device),
            train=self.train_rows,
            tune=self.tune_rows,
            taught=self.taught,
            folder=self.places.work,
            epochs=self.recipe.epochs,
            say=say,
            workers=workers,
        )

    def batches(self, *, augmented: bool, device: torch.device) -> Batches:
        """Batches of the records."""
        return Batches(self.records, np.array(self.classes), self.known, augmented=augmented, device=device)

    def _prepare(self, made: Design, say: Say) -> Prepared:
        return prepare(
            self.shards,
            made.spec,
            made.tokenizer,
            self.places.prepared,
            least_records=self.recipe.least_records,
            say=say,
        )

    def _frozen(self) -> dict[Modality, npt.NDArray[np.float32]]:
        if not isinstance(self.model, FusedModel):
            return {}
        return {
            m: frozen_features(self.records, m, self.model.encoder(m), self.places.prepared)
            for m in frozen_modalities(self.recipe)
        }

    def _taught(self, say: Say) -> Taught | None:
        if not self.recipe.distil:
            return None
        teacher = Bundle.open(self.recipe.distil.teacher)
        seen = self._prepare(Design(teacher.spec, teacher.tokenizer, ()), say)
        return ask_teacher(teacher, seen, self.records, np.array(self.classes), self.places.prepared)


def _train_as_worker(config: dict[str, Any]) -> None:
    """One of several workers: everything that it needs is on disk already."""
    from mmray.training.distributed import Together

    together = Together()
    say: Say = print if together.rank == 0 else _silent
    training = Training(
        TrainRecipe.model_validate_json(config["recipe"]), Places(*map(Path, config["places"])), say
    )
    training.train(together, say)


def _silent(_: str) -> None:
    """Discards messages: the other workers print the same ones."""


def _write(training: Training, output: Path, history: list[Entry], say: Say) -> Bundle:
    model, records, spec = training.model.eval(), training.records, training.design.spec
    fold_norms(model)
    plain = training.batches(augmented=False, device=next(model.parameters()).device)
    tune, test = [
        subset_outputs(model, plain, records, records.of(split), training.classes)
        for split in ("tune", "test")
    ]
    model.cpu()  # to be exported
    selective = judge_selective(tune, test)
    sample, sample_records = _sample(training.shards, training.design)
    cases = batch_cases(sample, spec)
    with tempfile.TemporaryDirectory() as temporary:
        graph = Path(temporary) / "fused.onnx"
        export_graph(model, spec, graph)
        parity = check_parity(model, graph, cases)
        say(f"exported {graph.stat().st_size / 1e6:.0f} MB, equal to torch within {parity:.1e}")
        scores = score_outputs(test)
        card = {
            "splits": records.counts(),
            "test_uses": [
                {
                    "variant": FP32,
                    "when": datetime.now(UTC).isoformat(timespec="seconds"),
                    "why": "said when it was trained",
                }
            ],
            "training": {"history": history, "parameters": sum(p.numel() for p in model.parameters())},
            "tune": score_outputs(tune),
            "test": scores,
            "variants": {
                FP32: {"bytes": graph.stat().st_size, "difference_from_torch": parity, **selective.card}
            },
        }
        bundle = write_bundle(
            output,
            name=output.name,
            graph=graph,
            spec=spec,
            labels=training.classes,
            features=sum(model.dims),
            tokenizer=training.design.tokenizer,
            golden_inputs=cases["mixed"],
            golden_outputs=Engine(graph, provider="cpu")(cases["mixed"]),
            golden_records=golden_records(sample_records, sample, spec),
            scorecard=card,
            sources=training.design.sources,
            origin={"recipe": training.recipe.model_dump_json(), "trained_by": "mmray train"},
            found=selective.fields,
            describe=lambda made: reference_from(made, training.recipe.input),
        )
    whole = scores["as they are"]
    say(
        f"wrote {output}: on test {whole['accuracy']:.3f} ({whole['low']:.3f} to {whole['high']:.3f}, "
        f"n {whole['records']})"
    )
    return bundle


def _sample(shards: list[Shard], made: Design) -> tuple[pa.Table, pa.Table]:
    """TENSORS of the first usable records, and the RECORDS that they were made from."""
    preprocess = Preprocessor(made.spec, made.tokenizer)
    for shard in shards:
        for block in read(shard, ReadOptions(block_rows=_SAMPLE_ROWS)):
            tensors = preprocess(block)
            good = pc.is_null(tensors["error"])
            if pc.any(good).as_py():
                return tensors.filter(good), block.filter(good)
    raise InputError(f"{shards[0].url}: no usable record; check it with `mmray plan`")


def _claim(work: Path, recipe: TrainRecipe) -> None:
    """Refuse a folder in which another recipe was trained."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / _RECIPE
    text = recipe.model_dump_json(indent=1)
    if file.exists() and file.read_text() != text:
        raise ConfigError(
            f"{work}: another recipe was trained there; name another folder by --work, or delete this one"
        )
    file.write_text(text)
