import os
import signal
import time
from contextlib import suppress

import pytest

from mmray import signals
from mmray.errors import Interrupted, Terminated


class Deaf:
    """Python drops what is raised while an object is deleted."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        os.kill(os.getpid(), self.number)
        time.sleep(0.01)


def drop_in_a_callback(number):
    one = Deaf(number)
    del one


def drop_in_a_library(number):
    try:
        os.kill(os.getpid(), number)
    except:  # noqa: E722  (what some libraries do)
        return


def asleep_after(drop, number):
    drop(number)
    time.sleep(30)


def under_signals(body, *arguments):
    with signals.raised():
        body(*arguments)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, Interrupted), (signal.SIGTERM, Terminated)])
@pytest.mark.parametrize("drop", [drop_in_a_callback, drop_in_a_library])
def test_a_signal_that_was_dropped_is_raised_again(drop, number, kind):
    begun = time.monotonic()
    with pytest.raises(kind, match="the same command resumes"):
        under_signals(asleep_after, drop, number)
    assert time.monotonic() - begun < 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_body_that_ends_before_that_still_tells_of_it():
    with pytest.raises(Terminated):
        under_signals(drop_in_a_callback, signal.SIGTERM)


def test_the_code_that_unwinds_is_not_interrupted():
    done = []

    def close_slowly():
        with suppress(KeyError):  # another failure, in the midst of it
            try:
                raise KeyError
            finally:
                time.sleep(2.5)
                done.append("closed")

    def body():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            close_slowly()

    with pytest.raises(Terminated):
        under_signals(body)
    assert done == ["closed"]


def test_who_answers_each_exception_does_not_answer_a_signal():
    def body():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Exception:
            pytest.fail("taken for a fault of the step")

    with pytest.raises(Interrupted):
        under_signals(body)


def test_what_was_set_before_is_set_again():
    every = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in every]
    with pytest.raises(Interrupted):
        under_signals(os.kill, os.getpid(), signal.SIGINT)
    assert [signal.getsignal(number) for number in every] == before
