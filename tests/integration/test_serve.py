"""The server answers as the batch job does: alone, under load, and while replicas die or are replaced."""

import base64
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.bundles import LABELS, make_bundle, records_table, small_bundle
from support.command import worker_pids
from support.damaged import truncated_jpeg
from support.media import clip, image_bytes
from support.reading import read_rows
from support.serving import Load

from mmray.client import Client
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import MODALITIES, RECORDS, table

TEXTS = [{"text": text} for text in ("a red cat", "a blue dog", "number", "a cat a dog", "red red red")]
ROW = {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.0)}


def expected(bundle, records):
    """Rows of OUTCOMES as the batch job makes them."""
    return Predictor(bundle, variant="fp32")(open_preprocessor(bundle)(records)).to_pylist()


def sent(row):
    return {m: row[m].decode() if m == "text" else row[m] for m in MODALITIES if row.get(m) is not None}


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


@pytest.mark.parametrize("topology", ["fused", "split"])
def test_each_record_is_answered_as_in_a_batch_job(server, shards, bundle, topology):
    """32 at a time, modalities missing, each with every modality left out."""
    rows = [row for shard in sorted(shards.glob("*.tar"))[:3] for row in read_rows(shard)][:96]
    records = table({name: [row[name] for row in rows] for name in RECORDS.names}, RECORDS)
    rows = expected(bundle, records)
    given = [sent(row) for row in records.to_pylist()]
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


def test_a_replica_killed_under_load_costs_no_wrong_answer_and_comes_back(server, truth):
    settings = {"bundle": str(small_bundle().path), "min_replicas": 2, "max_replicas": 2}
    with server.also("mortal", **settings) as url, Load(url, TEXTS) as load:
        load.wait_for(50)
        victim, other = worker_pids("ServeReplica:mortal")
        os.kill(victim, signal.SIGKILL)
        while len(set(worker_pids("ServeReplica:mortal")) - {victim, other}) < 1:
            load.wait_for(5)
        load.wait_for(100)
        settled = len(load.answers)
        load.wait_for(100)
    good = [(i, answer.json()) for i, answer in load.answers if answer and answer.status_code == 200]
    assert all(same(answer, truth[i]) for i, answer in good)
    assert {answer.status_code for _, answer in load.answers if answer} <= {200, 500, 502, 503}
    assert all(answer and answer.status_code == 200 for _, answer in load.answers[settled:])


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
