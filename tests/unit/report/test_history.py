"""events.jsonl as a story: calls, points, what went wrong."""

import json

from mmray.report.history import read_history


def lines(*events):
    at = "2026-11-29T03:00:{:02d}.000+00:00"
    return b"".join(
        json.dumps({"time": at.format(s), "event": name, **more}).encode() + b"\n" for s, name, more in events
    )


STORY = lines(
    (0, "started", {"topology": "fused", "actors": 2, "done": 0}),
    (0, "pass", {"number": 1, "units": 9}),
    (2, "progress", {"rows": 10, "rejects": 0}),
    (4, "lost", {"workers": 2, "at": "died at a.tar"}),
    (5, "broke off", {"reason": "a full disk"}),
    (30, "started", {"topology": "fused", "actors": 2, "done": 12}),
    (34, "progress", {"rows": 8, "rejects": 1}),
    (36, "finished", {"ok": True, "rows": 20}),
    (40, "retry", {"rejects": 1, "parts": 1, "done": 19}),
)


def test_calls_follow_each_other_without_the_pause_between():
    curves = list(read_history(STORY).curve())
    assert curves == [[(0.0, 0), (2.0, 10)], [(5.0, 12), (9.0, 20)], [(11.0, 19)]]


def test_resumes_retries_and_faults_are_counted_and_told():
    history = read_history(STORY)
    assert (history.resumes, history.retries, history.lost, history.broke_off) == (1, 1, 2, 1)
    told = [words for _, words in history.told]
    assert "2 workers died: died at a.tar" in told
    assert "broke off: a full disk" in told
    assert not any("pass 1" in words for words in told)
    assert len(told) == 6, "points are no news"


def test_what_is_no_event_is_passed_over():
    torn = (
        STORY
        + b'{"time": "2026-11-29T03:00:41+00:00", "ev\n[]\n{"event": "x", "time": 7}\n'
        + lines((45, "dreamt", {"of": "sheep"}))
    )
    assert read_history(torn).told == read_history(STORY).told


def test_the_log_of_an_earlier_version_has_no_points():
    old = lines((0, "started", {"topology": "fused", "actors": 2}), (3, "finished", {"ok": True, "rows": 5}))
    assert list(read_history(old).curve()) == [[(0.0, 0)]]
    assert list(read_history(b"").curve()) == []


def test_of_events_without_end_the_latest_are_told():
    history = read_history(lines(*((s % 60, "broke off", {"reason": f"r{s}"}) for s in range(250))))
    assert (len(history.told), history.left_out) == (100, 150)
    assert history.told[-1][1] == "broke off: r249"
