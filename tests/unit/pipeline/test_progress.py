"""Points of how far a run was: few, and never worth the run."""

import json
from itertools import pairwise

from mmray.pipeline.progress import Progress
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Snapshot
from mmray.storage import Location


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def points(out):
    return [json.loads(line) for line in out.events.read_bytes().splitlines()]


class Counting(Progress):
    """Counts its points: a disk would take the test's time."""

    def __init__(self, clock):
        super().__init__(RunDirectory.at("nowhere"), lambda _: None, clock)
        self.at = []

    def write(self, _):
        self.at.append(self._clock())


def test_a_week_has_fewer_than_a_thousand_points_and_none_is_far_from_the_next():
    clock = Clock()
    progress = Counting(clock)
    for clock.now in (*range(0, 3_600, 2), *range(3_600, 7 * 86_400, 60)):
        progress(Snapshot())
    assert 500 < len(progress.at) < 1000
    assert progress.at[:3] == [2, 4, 6]
    assert all(b - a <= 60 + a / 100 for a, b in pairwise(progress.at))


def test_a_point_has_what_was_counted_and_everybody_is_told_at_once(tmp_path):
    out, clock, heard = RunDirectory.at(str(tmp_path)), Clock(), []
    progress = Progress(out, heard.append, clock)
    for clock.now in (0.0, 0.5, 1.9, 2.1, 2.5):
        progress(Snapshot(rows=int(10 * clock.now), rejects=1))
    assert len(heard) == 5
    (point,) = points(out)
    assert (point["event"], point["rows"], point["rejects"]) == ("progress", 21, 1)


def test_a_directory_that_another_run_took_over_gets_no_points(tmp_path):
    claimed = RunDirectory(Location.parse(tmp_path), Location.parse(tmp_path / "leases" / "gone"))
    Progress(claimed, lambda _: None).write(Snapshot(rows=1))
    assert not claimed.events.exists()


def test_a_disk_that_fails_costs_a_point_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("")
    Progress(RunDirectory.at(str(tmp_path / "file" / "out")), lambda _: None).write(Snapshot(rows=1))
