"""A model is proved from raw records on: tokens, pictures, sounds, answers, on the machine that runs it."""

import json
import shutil

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import numpy_helper
from support.bundles import LABELS, SPEC, make_bundle, reseal, small_bundle

from mmray.batching import blank
from mmray.bundle import Bundle
from mmray.errors import BundleError, EngineError
from mmray.golden import fitting, lay, output_difference, remade
from mmray.predictor import Predictor, open_preprocessor
from mmray.shapes import job_ladder

FILES = ["variants/fp32.onnx", "tokenizer.json", "golden.npz", "golden.parquet", "scorecard.json"]


@pytest.fixture
def copy(tmp_path):
    """A bundle that a test may alter."""
    shutil.copytree(small_bundle().path, tmp_path / "copy")
    return Bundle.open(tmp_path / "copy")


def use(bundle):
    """What a worker does first."""
    open_preprocessor(bundle)
    return Predictor(bundle, provider="cpu", shared=True)


def edit_manifest(bundle, **changes):
    file = bundle.path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_not_used_unless_it_is_as_the_manifest_says(copy, name):
    """One flipped bit is enough, also after the bundle was opened and used."""
    use(copy)
    data = bytearray((copy.path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy.path / name).write_bytes(data)
    with pytest.raises(BundleError, match="differs from its checksum") as e:
        use(Bundle.open(copy.path)).variant, copy.scorecard
    assert name in str(e.value)


def test_a_damaged_graph_leaves_nothing_behind_for_the_sound_one(copy, tmp_path, monkeypatch):
    """Not even under the cache of this machine, where weights are shared."""
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path / "cache"))
    graph = copy.path / "variants/fp32.onnx"
    whole = graph.read_bytes()
    model = onnx.load(graph)
    [head] = [value for value in model.graph.initializer if value.name == "head"]
    head.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(head), "head"))
    onnx.save(model, graph)
    with pytest.raises(BundleError, match="differs from its checksum"):
        use(copy)
    assert not list(tmp_path.glob("cache/prepacked/*/graph.onnx"))
    graph.write_bytes(whole)
    assert use(copy).golden_difference < 1e-5


def with_weights_outside(bundle, location, place):
    """The bundle with a tensor of its graph in another file, under checksums of its own."""
    graph = bundle.path / "variants/fp32.onnx"
    model = onnx.load(graph)
    [head] = [value for value in model.graph.initializer if value.name == "head"]
    place.write_bytes(head.raw_data)
    entries = (("location", location), ("offset", "0"), ("length", str(len(head.raw_data))))
    head.ClearField("raw_data")
    head.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries:
        entry = head.external_data.add()
        entry.key, entry.value = key, value
    graph.write_bytes(model.SerializeToString())
    return graph


def test_weights_outside_of_the_bundle_are_refused(copy, tmp_path):
    for location in ("../../outside.bin", str(tmp_path / "outside.bin")):
        shutil.copyfile(small_bundle().graph("fp32"), copy.path / "variants/fp32.onnx")
        with_weights_outside(copy, location, tmp_path / "outside.bin")
        with pytest.raises(
            BundleError, match=r"its weights are in '.*outside.bin', which is not in manifest.json"
        ):
            use(reseal(copy))
        with pytest.raises(BundleError, match="its weights are in"):
            Bundle.open(copy.path).verify()


def test_weights_that_a_link_leads_to_are_refused(copy, tmp_path):
    with_weights_outside(copy, "side.bin", tmp_path / "outside.bin")
    (copy.path / "variants/side.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(BundleError, match="outside the bundle"):
        reseal(copy)


def test_weights_in_the_bundle_count_only_where_the_manifest_names_them(copy):
    side = copy.path / "variants/side.bin"
    with_weights_outside(copy, "side.bin", side)
    bundle = reseal(copy)
    assert use(bundle).golden_difference < 1e-5
    weights = side.read_bytes()
    side.write_bytes(bytes(len(weights)))
    with pytest.raises(BundleError, match=r"side\.bin: differs from its checksum"):
        use(bundle)
    side.write_bytes(weights)
    files = {name: digest for name, digest in bundle.manifest.files.items() if name != "variants/side.bin"}
    edit_manifest(bundle, files=files)
    with pytest.raises(BundleError, match=r"its weights are in 'side\.bin', which is not in manifest\.json"):
        use(Bundle.open(bundle.path))


@pytest.mark.parametrize("name", ["golden.npz", "tokenizer.json", "scorecard.json"])
def test_what_decides_needs_a_checksum(copy, name):
    files = {file: digest for file, digest in copy.manifest.files.items() if file != name}
    edit_manifest(copy, files=files)
    with pytest.raises(BundleError, match=f"{name} has no checksum"):
        Bundle.open(copy.path)


@pytest.mark.parametrize("labels", [LABELS[:3], (*LABELS, "one more")])
def test_labels_that_are_not_as_many_as_the_scores_are_refused_when_it_is_opened(copy, labels):
    edit_manifest(copy, labels=list(labels))
    with pytest.raises(BundleError, match=f"{len(labels)} labels, but the model gives 4"):
        Bundle.open(copy.path)


def test_a_graph_that_gives_more_scores_than_there_are_labels_is_refused(tmp_path):
    """Also where the golden outputs were cut to fit."""
    inputs, outputs = small_bundle().golden()
    cut = {name: values[:, :3] for name, values in outputs.items()}
    bundle = make_bundle(tmp_path / "b", labels=LABELS[:3], golden_inputs=inputs, golden_outputs=cut)
    with pytest.raises(EngineError, match="4 logits for 3 labels"):
        Predictor(bundle, provider="cpu")


def test_another_tokenizer_is_noticed_whatever_the_checksums_say(copy):
    """Two words changed places: every graph runs, and every text means something else."""
    file = copy.path / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = tokenizer["model"]["vocab"]
    words["cat"], words["red"] = words["red"], words["cat"]
    file.write_text(json.dumps(tokenizer))
    bundle = reseal(copy)
    for opened in (open_preprocessor, lambda b: Predictor(b, provider="cpu")):
        with pytest.raises(EngineError, match="makes other tokens of the golden texts"):
            opened(bundle)


@pytest.mark.parametrize(
    ("modality", "change", "said"),
    [
        ("image", {"fit": "crop", "background": [0, 0, 0]}, "other pixels"),
        ("audio", {"max_hz": 2_000.0}, "other log_mel"),
        ("audio", {"patch_hop": 6}, "another number of log_mel"),
    ],
)
def test_another_preprocessing_is_noticed(copy, modality, change, said):
    preprocessing = json.loads((copy.path / "manifest.json").read_text())["preprocessing"]
    preprocessing[modality] |= change
    edit_manifest(copy, preprocessing=preprocessing)
    with pytest.raises(EngineError, match=said):
        open_preprocessor(Bundle.open(copy.path))


def test_a_machine_that_cannot_decode_a_golden_record_is_told_so(copy):
    records = pq.read_table(copy.path / "golden.parquet")
    cut = [value and value[: len(value) // 2] for value in records["image"].to_pylist()]
    column = records.schema.get_field_index("image")
    pq.write_table(
        records.set_column(column, records.schema.field("image"), [cut]), copy.path / "golden.parquet"
    )
    with pytest.raises(EngineError, match="refuses golden record 0: cannot decode the image"):
        use(reseal(copy))


def test_decoders_may_round_in_another_way(copy, monkeypatch):
    """As Pillow's resizing does where there is none by SIMD."""
    inputs, _ = copy.golden()
    monkeypatch.setattr("mmray.preprocess.resize.HAS_SIMD", False)
    assert use(copy).golden_difference < 1e-5
    assert remade(copy, inputs).keys() == {"pixels", "log_mel"}


def test_a_bundle_without_raw_records_opens_as_before(copy):
    """Those that an older mmray made; also the preprocessing is then taken as it comes."""
    (copy.path / "golden.parquet").unlink()
    bundle = reseal(copy)
    assert bundle.golden_records() is None
    assert use(bundle).golden_difference < 1e-5
    bundle.verify()


@pytest.mark.parametrize("junk", [b"", b"PAR1", b"not a table"])
def test_records_that_cannot_be_read_are_a_fault_of_the_bundle(copy, junk):
    (copy.path / "golden.parquet").write_bytes(junk)
    with pytest.raises(BundleError, match=r"golden\.parquet"):
        use(reseal(copy))


def test_golden_records_are_laid_into_a_padded_batch_as_they_are():
    """As many as fit; what was in the buffers before is gone."""
    feeds, outputs = small_bundle().golden()
    for shape in job_ladder(SPEC, 2).shapes(SPEC.modalities):
        rows = fitting(feeds, shape)
        assert len(rows) <= shape.rows
        buffers = blank(SPEC, shape)
        for array in buffers.values():
            if array.dtype != np.int64:
                array[:] = 1
        lay(buffers, feeds, rows)
        found = Predictor(small_bundle(), provider="cpu")._runners[0].stage.engine(buffers)
        if rows:
            assert output_difference(found["scores"][: len(rows)], outputs["scores"][rows]) < 1e-5
