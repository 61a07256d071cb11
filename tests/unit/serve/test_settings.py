"""Settings are checked at the edge, tokens leave it as digests, and problems read as RFC 9457 wants them."""

import hashlib
import json

import pytest
from support.abstaining import abstaining
from support.bundles import small_bundle

from mmray.cli.serving import Asked, serve_bundles
from mmray.errors import BundleError, ConfigError, UsageError
from mmray.schema import error
from mmray.serve.app import build, is_public, prefixes
from mmray.serve.problems import Problem
from mmray.serve.settings import ServeSettings


def digest(token):
    return hashlib.sha256(token.encode()).digest()


def test_each_line_of_the_file_and_the_environment_give_a_token(tmp_path, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text("one\n\n  two\n")
    monkeypatch.setenv("MMRAY_TOKEN", "three")
    found = ServeSettings(bundle="b", token_file=str(file)).token_digests(public=False)
    assert found == {digest("one"), digest("two"), digest("three")}
    monkeypatch.delenv("MMRAY_TOKEN")
    assert ServeSettings(bundle="b").token_digests() == frozenset()


def test_a_token_file_that_cannot_guard_is_refused(tmp_path):
    """An empty file must not open the server to all."""
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "missing"):
        with pytest.raises(ConfigError, match=name):
            ServeSettings(bundle="b", token_file=str(tmp_path / name)).token_digests()


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_blank_token_starts_nothing(monkeypatch, host, blank):
    """A secret that was not mounted must not open the server to all."""
    monkeypatch.setenv("MMRAY_TOKEN", blank)
    asked = Asked(host, 8000, "1", "auto", "auto", None, 256)
    with pytest.raises(ConfigError, match="MMRAY_TOKEN is blank"):
        serve_bundles([str(small_bundle().path)], asked)


@pytest.mark.parametrize(("host", "refused"), [("0.0.0.0", True), ("::", True), ("::1", False)])
def test_a_short_token_is_refused_where_strangers_may_ask(tmp_path, monkeypatch, host, refused):
    file = tmp_path / "tokens"
    file.write_text(f"{16 * 'x'}\n{15 * 'x'}\n")
    settings = ServeSettings(bundle="b", token_file=str(file))
    if not refused:
        assert len(settings.token_digests(public=is_public(host))) == 2
        return
    with pytest.raises(ConfigError, match="tokens:2: a token of 15 characters"):
        settings.token_digests(public=is_public(host))
    monkeypatch.setenv("MMRAY_TOKEN", "secret")
    with pytest.raises(ConfigError, match="MMRAY_TOKEN: a token of 6 characters"):
        build({"bundle": str(small_bundle().path)})  # on a cluster, whose address is not known here


def test_a_wrong_key_is_named_with_the_nearest_that_exists():
    with pytest.raises(ConfigError, match="batch_rows"):
        build({"bundle": str(small_bundle().path), "bach_rows": 4})


def test_a_budget_of_bytes_without_room_for_one_body_is_refused():
    with pytest.raises(ConfigError, match="bytes_in_flight"):
        build({"bundle": str(small_bundle().path), "body_bytes": 100, "bytes_in_flight": 99})


def test_a_variant_that_is_not_there_is_refused_before_anything_starts():
    with pytest.raises(BundleError, match="no variant 'int3'"):
        build({"bundle": str(small_bundle().path), "variant": "int3"})


def test_a_risk_that_the_bundle_does_not_support_is_refused_before_anything_starts(tmp_path):
    bundle = str(abstaining(tmp_path / "b", {0.05: 0.9}).path)
    asked = Asked("127.0.0.1", 8000, "1", "auto", "auto", None, 256, ("abstain=0.01",))
    for start in (lambda: build({"bundle": bundle, "abstain": 0.01}), lambda: serve_bundles([bundle], asked)):
        with pytest.raises(ConfigError, match=r"no threshold for a risk of 0\.01 .* ask for 0\.05 or more"):
            start()


def test_set_takes_the_keys_of_a_server_and_no_others():
    asked = Asked("127.0.0.1", 8000, "1", "auto", "auto", None, 256, ("bach_rows=4",))
    with pytest.raises(ConfigError, match=r"unknown key 'bach_rows' .did you mean 'batch_rows'"):
        serve_bundles([str(small_bundle().path)], asked)


def test_bundles_answer_under_their_names_and_one_alone_at_the_root():
    assert prefixes(["x/a"]) == {"x/a": "/"}
    assert prefixes(["x/a", "y/b/"]) == {"x/a": "/a", "y/b/": "/b"}
    with pytest.raises(UsageError):
        prefixes(["x/a", "y/a"])


def test_a_reject_becomes_a_problem_with_its_stage_and_type():
    problem = Problem.of_reject(error("preprocess", "image-undecodable", "no picture \udcff"))
    response = problem.response()
    assert response.media_type == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "no picture \udcff",
        "stage": "preprocess",
        "reason": "image-undecodable",
    }
