"""Whoever finds a port taken is told by whom, and how to end that."""

import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from mmray.errors import UsageError
from mmray.serve.ports import check_free

LISTEN = (
    "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
)
WAIT = f"{LISTEN}; sys.stdin.read()"
# What listens is HAProxy, which `mmray serve` would start anew.
OVER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[-1]])"


@contextmanager
def started(*command):
    """The process, and the port that it, or its child, listens at."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, int(process.stdout.readline())
        process.stdin.close()


def test_a_free_port_is_free():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    check_free("127.0.0.1", port)


def test_the_holder_is_named_with_its_command():
    with started(sys.executable, "-c", WAIT) as (process, port):
        with pytest.raises(UsageError) as found:
            check_free("127.0.0.1", port)
        said = str(found.value)
    assert re.search(rf"--port {port}: .* pid {process.pid} .*{re.escape(sys.executable)}", said)
    assert f"stop it with `kill {process.pid}`" in said
    assert "\n" not in said


def test_of_a_server_of_ours_the_one_to_end_is_named():
    with started(sys.executable, "-c", OVER, "mmray", "serve", WAIT) as (process, port):
        with pytest.raises(UsageError, match=rf"stop it with `kill {process.pid}`") as found:
            check_free("127.0.0.1", port)
        assert f"pid {process.pid} does" not in str(found.value)


def test_our_own_process_may_be_it():
    with (
        socket.create_server(("127.0.0.1", 0)) as own,
        pytest.raises(UsageError, match=f"pid {os.getpid()} "),
    ):
        check_free("127.0.0.1", own.getsockname()[1])


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid"])
def test_a_host_that_is_not_this_machine_is_no_fault_of_the_port(host):
    with pytest.raises(UsageError, match=f"--host {host}: .*address of this machine") as e:
        check_free(host, 8000)
    assert "--port" not in str(e.value)
