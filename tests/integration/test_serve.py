"""The server answers as the batch job does: alone, under load, and while replicas die or are replaced."""

import base64
import contextlib
import itertools
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.abstaining import abstaining
from support.bundles import LABELS, latin_bundle, make_bundle, records_table, small_bundle
from support.cascades import cascaded, mixed_records
from support.command import worker_pids
from support.damaged import truncated_jpeg
from support.media import clip, image_bytes
from support.reading import read_rows
from support.serving import Load
from support.tars import members_of, tar_bytes

from mmray.bundle import Bundle
from mmray.client import Client, ServerError
from mmray.config import RunConfig
from mmray.pipeline.run import Watcher, run
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import MODALITIES
from mmray.sources import ReadOptions, list_shards, read

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)
TEXTS = [{"text": text} for text in ("a red cat", "a blue dog", "number", "a cat a dog", "red red red")]
ROW = {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.0)}


def expected(bundle, records, variant="fp32"):
    """Rows of OUTCOMES as the batch job makes them."""
    predict, preprocess = Predictor(bundle, variant=variant), open_preprocessor(bundle)
    return predict(preprocess(records, predict.later), preprocess.complete).to_pylist()


def sent(row):
    return {m: row[m].decode() if m == "text" else row[m] for m in MODALITIES if row.get(m) is not None}


def sent_bytes(row):
    return {m: row[m] for m in MODALITIES if row.get(m) is not None}


def as_json(row):
    record = sent(row)
    return record | {m: base64.b64encode(record[m]).decode() for m in ("image", "audio") if m in record}


def same(answer, row):
    scores = [answer["scores"][label] for label in LABELS]
    return answer["label"] == row["label"] and scores == pytest.approx(row["scores"], abs=1e-4)


@pytest.fixture(scope="module")
def truth():
    """What is right for each of TEXTS."""
    return expected(small_bundle(), records_table([{"text": t["text"].encode()} for t in TEXTS]))


@pytest.fixture(scope="module")
def batch(ray_cluster, shards, bundle, tmp_path_factory):
    """Rows that a batch job on the same Ray has written, by key."""
    return batch_rows(bundle, sorted(shards.glob("*.tar"))[:3], tmp_path_factory.mktemp("batch") / "out")


def batch_rows(bundle, inputs, output, variant="fp32"):
    config = {"input": [str(file) for file in inputs], "bundle": str(bundle.path), "output": str(output)}
    result = run(RunConfig.model_validate({**config, "variant": variant, "provider": "cpu"}), SILENT)
    assert result.audit.ok
    parts = [pq.read_table(part) for part in (output / "parts").glob("*.parquet")]
    return {row["key"]: row for row in pa.concat_tables(parts).to_pylist()}


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_each_record_is_answered_as_in_a_batch_job(server, shards, bundle, batch, topology):
    """32 at a time, modalities missing."""
    records = [row for shard in sorted(shards.glob("*.tar"))[:3] for row in read_rows(shard)][:96]
    rows = [batch[record["key"]] for record in records]
    given = [sent(record) for record in records]
    assert {len(record) for record in given} >= {2, 3}
    with server.also("parity", bundle=str(bundle.path), variant="fp32", topology=topology) as url:
        client = Client(url)
        with ThreadPoolExecutor(32) as threads:
            answers = list(threads.map(client.predict, given))
        lines = list(client.predict_batch(given[:20]))
    for answer, row in zip(answers + lines, rows + rows[:20], strict=True):
        assert answer["label"] == row["label"]
        assert answer["score"] == pytest.approx(row["score"], abs=1e-4)
        assert answer["modalities"] == row["modalities"]
        assert answer["bundle"] == bundle.digest
        assert [answer["scores"][label] for label in bundle.labels] == pytest.approx(row["scores"], abs=1e-4)


def test_the_decision_with_a_modality_left_out_is_that_of_the_record_without_it(server):
    answer = Client(server.url).predict(sent(ROW), explain=True)
    assert list(answer["without"]) == ["image", "text", "audio"]
    for modality, decision in answer["without"].items():
        rest = {m: data for m, data in ROW.items() if m != modality}
        [row] = expected(small_bundle(), records_table([rest]))
        assert decision["label"] == row["label"]
        assert decision["score"] == pytest.approx(row["score"], abs=1e-4)
    assert Client(server.url).predict({"text": "a cat"}, explain=True)["without"] == {}


@pytest.fixture(scope="module")
def cascade(tmp_path_factory):
    """A bundle whose text answers alone where it is at least .38 sure."""
    return cascaded(tmp_path_factory.mktemp("cascade") / "bundle", 0.38)


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_a_cascade_answers_at_the_stage_of_the_batch_job(server, cascade, topology):
    """What the records that leave early have of other modalities is not even decoded."""
    records = mixed_records().to_pylist()
    for row in records[::5]:
        row["image"] = truncated_jpeg()
    rows = expected(cascade, records_table([sent_bytes(row) for row in records]), "cascade")
    settings = {"bundle": str(cascade.path), "variant": "cascade", "topology": topology}
    with server.also("cascade", **settings) as url:
        answers = list(Client(url).predict_batch([sent(row) for row in records]))
        kept = [row for row, right in zip(records, rows, strict=True) if not right["error"]]
        alone = [Client(url).predict(sent(row)) for row in kept]
    good = [(answer, row) for answer, row in zip(answers, rows, strict=True) if not row["error"]]
    assert {row["stage"] for _, row in good} == {1, 2}
    for answer, row in [*good, *zip(alone, [row for _, row in good], strict=True)]:
        assert [answer[name] for name in ("label", "stage", "modalities")] == [
            row[name] for name in ("label", "stage", "modalities")
        ]
        assert answer["confidence"] == pytest.approx(row["confidence"], abs=1e-4)
    failed = [answer["error"]["reason"] for answer in answers if "error" in answer]
    assert failed == [row["error"]["type"] for row in rows if row["error"]]
    unread = [row for row in rows[::5] if not row["error"]]
    assert unread
    assert {row["stage"] for row in unread} == {1}


def test_a_cascade_is_explained_by_what_it_decides_without_each_modality(server, cascade):
    with server.also("explained", bundle=str(cascade.path), variant="cascade") as url:
        answer = Client(url).predict(sent(ROW), explain=True)
        unsound = Client(url).predict(sent(ROW | {"image": truncated_jpeg()}), explain=True)
    assert answer["stage"] == 1
    assert answer["modalities"] == ["text"]
    for modality in MODALITIES:
        rest = {m: data for m, data in ROW.items() if m != modality}
        [row] = expected(cascade, records_table([rest]), "cascade")
        assert answer["without"][modality]["label"] == row["label"]
        assert answer["without"][modality]["score"] == pytest.approx(row["score"], abs=1e-4)
    assert list(unsound["without"]) == ["image", "audio"]  # without the text, the image would have to be read


def test_a_text_in_another_script_is_masked_where_that_is_asked_for(server):
    settings = {"bundle": str(latin_bundle().path), "foreign_text": "mask", "topology": "split"}
    with server.also("latin", **settings) as url:
        answer = Client(url).predict({"text": "Красный кот", "image": image_bytes()})
        plain = Client(url).predict({"text": "a red cat", "image": image_bytes()})
        with pytest.raises(ServerError, match="text in another script"):
            Client(url).predict({"text": "Красный кот"})
    assert answer["modalities"] == ["image"]
    assert answer["unread"] == ["text in another script, masked"]
    assert plain["modalities"] == ["image", "text"]
    assert "unread" not in plain


def test_a_server_that_may_abstain_says_so_in_every_answer(server, tmp_path):
    scores = sorted(row["score"] for row in expected(small_bundle(), records_table(TEXTS)))
    bundle = abstaining(tmp_path / "b", {0.05: (scores[1] + scores[2]) / 2})
    right = Predictor(bundle, variant="fp32", abstain=0.05)(open_preprocessor(bundle)(records_table(TEXTS)))
    with server.also("abstaining", bundle=str(bundle.path), variant="fp32", abstain=0.05) as url:
        answers = list(Client(url).predict_batch(TEXTS))
        explained = Client(url).predict(sent(ROW), explain=True)
    for column in ("label", "abstained"):
        assert [answer[column] for answer in answers] == right[column].to_pylist()
    assert {answer["abstained"] for answer in answers} == {False, True}
    assert all(isinstance(left["abstained"], bool) for left in explained["without"].values())


def test_only_as_many_scores_as_asked_for_come_best_first(server):
    scores = Client(server.url).predict(sent(ROW), top=2)["scores"]
    assert len(scores) == 2
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_a_multipart_body_is_the_same_record_as_json(server):
    answer = httpx.post(
        f"{server.url}/v1/predict",
        files={"image": ("a.png", ROW["image"]), "audio": ("a.wav", ROW["audio"])},
        data={"text": "a red cat"},
    ).json()
    assert answer["scores"] == Client(server.url).predict(sent(ROW))["scores"]
    lines = httpx.post(
        f"{server.url}/v1/predict/batch",
        files={"0.image": ("a.png", ROW["image"]), "1.audio": ("a.wav", ROW["audio"])},
        data={"0.text": "a red cat"},
    ).text.splitlines()
    assert [json.loads(line)["modalities"] for line in lines] == [["image", "text"], ["audio"]]


def test_what_is_wrong_with_one_record_of_a_batch_is_said_in_its_place(server):
    broken = {"image": truncated_jpeg(), "id": "broken"}
    records = [{"text": "a cat", "id": 7}, broken, {"text": "poison"}, {"text": "nan"}, {"text": "a dog"}]
    answers = list(Client(server.url).predict_batch(records))
    assert [answer["index"] for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.get("id") for answer in answers] == [7, "broken", None, None, None]
    errors = [answer.get("error", {}).get("reason") for answer in answers]
    assert errors == [None, "image-undecodable", "model-error", "not-finite", None]
    assert answers[1]["error"]["stage"] == "preprocess"


def test_the_model_tells_what_it_is(server):
    model = Client(server.url).model()
    assert model["digest"] == small_bundle().digest
    assert model["labels"] == list(LABELS)
    assert model["modalities"] == ["image", "text", "audio"]
    assert model["limits"]["body_bytes"] > 0


def test_samples_are_offered_where_that_is_asked_for_and_can_be_predicted(server):
    assert not Client(server.url).model()["samples"]
    assert httpx.get(f"{server.url}/v1/samples").status_code == 404
    with server.also("samples", bundle=str(small_bundle().path), samples=True) as url:
        assert Client(url).model()["samples"]
        offered = httpx.get(f"{url}/v1/samples").json()["samples"]
        assert offered
        assert len({sample["key"] for sample in offered}) == len(offered)
        for sample in offered:
            answer = httpx.post(f"{url}/v1/predict", json=sample["record"])
            assert answer.json()["modalities"] == [m for m in MODALITIES if m in sample["record"]]


def test_more_than_it_can_do_is_refused_at_once_and_it_goes_on(server, truth):
    """Whoever is answered is answered right; nobody sees anything but 200 and 503."""
    with (
        server.also("narrow", bundle=str(small_bundle().path), batch_rows=1) as url,
        Load(url, [as_json(ROW)], threads=32) as load,
    ):
        load.wait_for(200)
    statuses = {answer.status_code for _, answer in load.answers}
    assert statuses == {200, 503}
    assert all("Retry-After" in answer.headers for _, answer in load.answers if answer.status_code == 503)


def test_bodies_beyond_the_budget_of_bytes_are_refused_until_there_is_room(server):
    body = {"audio": base64.b64encode(clip(seconds=2.0)).decode()}
    size = len(json.dumps(body))
    budget = {"body_bytes": size + 100, "bytes_in_flight": 2 * size + 200}
    with (
        server.also("tight", bundle=str(small_bundle().path), **budget) as url,
        Load(url, [body], threads=16) as load,
    ):
        load.wait_for(200)
    assert {answer.status_code for _, answer in load.answers} == {200, 503}


def test_a_replica_killed_under_load_costs_no_wrong_answer_and_comes_back(server, truth):
    settings = {"bundle": str(small_bundle().path), "min_replicas": 2, "max_replicas": 2}
    with server.also("mortal", **settings) as url, Load(url, TEXTS) as load:
        load.wait_for(50)
        victim, other = worker_pids("ServeReplica:mortal")
        os.kill(victim, signal.SIGKILL)
        while len(set(worker_pids("ServeReplica:mortal")) - {victim, other}) < 1:
            load.wait_for(5)
        load.wait_for(100)
        before = len(load.answers)
        load.wait_for(100)
    good = [(i, answer.json()) for i, answer in load.answers if answer and answer.status_code == 200]
    assert all(same(answer, truth[i]) for i, answer in good)
    assert {answer.status_code for _, answer in load.answers if answer} <= {200, 500, 502, 503}
    assert all(answer and answer.status_code == 200 for _, answer in load.answers[before:])


@pytest.mark.parametrize(("topology", "text"), [("fused", "LOST"), ("split", "ENDLESS")])
def test_a_model_that_died_or_hangs_is_the_servers_fault_and_is_replaced(server, topology, text):
    """The device goes for good, or a decoder never comes back: 503 and not ready until another replica is."""
    bundle = str(small_bundle().path)
    ill = {"topology": topology, "compute_timeout_s": 1.0, "health_check_period_s": 1.0}
    with server.also("ill", bundle=bundle, **ill) as url:
        before = set(worker_pids("ServeReplica:ill"))
        said = [httpx.post(f"{url}/v1/predict", json={"text": text}, timeout=30)]
        ready = [httpx.get(f"{url}/readyz", timeout=30)]
        assert said[0].json()["reason"] == "unavailable"
        deadline = time.monotonic() + 90
        while said[-1].status_code != 200 or ready[-1].status_code != 200:
            assert time.monotonic() < deadline, "no replica takes its place"
            # For a new replica HAProxy loads its settings again; a connection of that moment may be closed.
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError):
                said.append(httpx.post(f"{url}/v1/predict", json=TEXTS[0], timeout=30))
                ready.append(httpx.get(f"{url}/readyz", timeout=30))
            time.sleep(0.05)
        while before <= set(worker_pids("ServeReplica:ill")):
            assert time.monotonic() < deadline, "the one that hangs is not ended"
            time.sleep(0.05)
    for answers in (said, ready):
        assert answers[0].status_code == 503
        assert {answer.status_code for answer in answers} == {200, 503}
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 503)


def test_another_bundle_takes_over_and_no_request_fails(server, truth, tmp_path):
    first, second = small_bundle(), make_bundle(tmp_path / "second", name="second")
    with server.also("rolling", bundle=str(first.path)) as url, Load(url, TEXTS) as load:
        load.wait_for(50)
        server.deploy("rolling", bundle=str(second.path))
        load.wait_for(50)
    assert [answer.text for _, answer in load.answers if not answer or answer.status_code != 200] == []
    assert all(same(answer.json(), truth[i]) for i, answer in load.answers)
    digests = [answer.json()["bundle"] for _, answer in load.answers]
    assert digests[0] == first.digest
    assert digests[-1] == second.digest


def test_several_bundles_answer_side_by_side(server, bundle):
    with server.also("beside", bundle=str(bundle.path)) as url:
        assert Client(url).model()["digest"] == bundle.digest
        assert Client(server.url).model()["digest"] == small_bundle().digest
        page = httpx.get(url, follow_redirects=True)
        assert str(page.url) == f"{url}/"


def test_the_page_and_its_files_are_served_so_that_nothing_else_can_run(server):
    page = httpx.get(server.url)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert httpx.get(f"{server.url}/page.js").headers["content-type"] == "text/javascript; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


def test_a_record_too_large_for_a_batch_of_its_cost_is_still_answered(server):
    long = {"text": "a cat " * 900, "audio": clip(seconds=2.0)}
    assert Client(server.url).predict(long)["modalities"] == ["text", "audio"]


EXTENSIONS = {"image": "png", "text": "txt", "audio": "ogg"}
VARIANTS = ("fp32", "fp16", "int8-dynamic", "int8-static-mixed", "cascade")


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_500_real_records_are_answered_as_in_a_batch_job(server, variant, tmp_path):
    """On each variant that runs on a CPU: 32 at a time, every other modality missing from some."""
    home = Path(os.environ.get("MMRAY_STAMPS", "bundles/stamps"))
    if not (home / "manifest.json").exists():
        pytest.skip(f"{home}: no bundle; make demo builds it, or set MMRAY_STAMPS to an optimized one")
    bundle = Bundle.open(str(home))
    if variant not in bundle.manifest.variants:
        pytest.skip(f"{home}: has no variant {variant}; mmray optimize makes it")
    rows = itertools.chain.from_iterable(
        block.to_pylist() for shard in list_shards(["data/tuxpaint"]) for block in read(shard, ReadOptions())
    )
    records = [thinned(i, row) for i, row in enumerate(itertools.islice(rows, 500))]
    files = [(f"{i:03d}", {EXTENSIONS[m]: data for m, data in row.items()}) for i, row in enumerate(records)]
    shard = tmp_path / "thinned.tar"
    shard.write_bytes(tar_bytes(members_of(files)))
    right = [row for _, row in sorted(batch_rows(bundle, [shard], tmp_path / "out", variant).items())]
    settings = {"bundle": str(home), "variant": variant, "min_replicas": 2, "max_replicas": 2}
    with server.also("stamps", **settings) as url, ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(Client(url).predict, map(sent, records)))
    assert [answer["label"] for answer in answers] == [row["label"] for row in right]
    assert [answer["modalities"] for answer in answers] == [row["modalities"] for row in right]
    scores = [[answer["scores"][label] for label in bundle.labels] for answer in answers]
    furthest = float(np.abs(np.subtract(scores, [row["scores"] for row in right])).max())
    print(f"{variant}: {len(answers)} records, {len(set(map(len, records)))} sizes, off by {furthest:.1e}")
    assert furthest < 1e-4


def thinned(number, row):
    """A record without one of its modalities, or two, or none, in turn."""
    present = [m for m in MODALITIES if row[m] is not None]
    gone = {present[i] for i in range(len(present)) if number % 4 == i + 1}
    return {m: row[m] for m in present if m not in gone or len(present) == 1}


@pytest.mark.long
@pytest.mark.timeout(400)
def test_load_brings_a_second_replica_and_its_end_takes_it_away(server, truth):
    def wait_for_replicas(count, seconds):
        deadline = time.monotonic() + seconds
        while len(worker_pids("ServeReplica:growing")) != count:
            assert time.monotonic() < deadline, f"not {count} replicas after {seconds} s"
            time.sleep(0.5)

    settings = {"bundle": str(small_bundle().path), "min_replicas": 1, "max_replicas": 2, "batch_rows": 2}
    with server.also("growing", **settings) as url:
        wait_for_replicas(1, 10)
        with Load(url, TEXTS, threads=8) as load:
            wait_for_replicas(2, 60)
            load.wait_for(200)
        wait_for_replicas(1, 180)
        assert same(Client(url).predict(TEXTS[0]), truth[0])
    good = [(i, answer.json()) for i, answer in load.answers if answer and answer.status_code == 200]
    assert all(same(answer, truth[i]) for i, answer in good)
    assert {answer.status_code for _, answer in load.answers if answer} <= {200, 503}
