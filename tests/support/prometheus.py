"""A real Prometheus: the one that is installed, or Debian's package, unpacked and not installed."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest

_PACKAGE = "prometheus"


class Prometheus:
    """Answers queries at its address."""

    def __init__(self, url):
        self.url = url

    def query(self, expression):
        """Series that an instant query gives: labels and value of each."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(url) as answer:
            found = json.load(answer)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]


def binary(folder):
    """Path of the program; the test is skipped where there is none and none can be fetched."""
    if found := shutil.which("prometheus"):
        return found
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        pytest.skip("needs Prometheus on the PATH, or Debian's package manager")
    fetched = subprocess.run(["apt-get", "download", _PACKAGE], cwd=folder, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"Debian's package cannot be fetched: {fetched.stderr.strip()[-200:]}")
    (package,) = folder.glob(f"{_PACKAGE}_*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(folder / "unpacked")], check=True)
    return str(folder / "unpacked/usr/bin/prometheus")


@contextmanager
def prometheus(folder, targets):
    """A Prometheus that scrapes addresses ("host:port") each second."""
    program = binary(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": list(targets)}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{url}/-/ready").close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
        yield Prometheus(url)
    finally:
        process.terminate()
        process.wait(20)
