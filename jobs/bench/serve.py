"""`mmray serve` against a plain two-worker uvicorn server: the same model and records, interleaved rounds.

    OMP_NUM_THREADS=1 python jobs/bench serve main --input data/tuxpaint --bundle bundles/stamps   # 2 min

It finds the maximum throughput of a server; for its latency, `mmray bench-serve` uses an open loop. The load
comes from a second process: a closed loop of `connections` that each send the next record after an answer.
The other servers sleep meanwhile. With `--variant cascade` the plain server runs the same model without its
exits. Then twice as many connections as may be in flight show the effect of overload. A table, then one JSON
line. Compare ratios of one run: other load affects both servers; the CPU time of an answer, of all processes
of a server, is affected least. Expected behind HAProxy: about as many requests a second as the plain server.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from mmray.load.bodies import CONTENT_TYPE, bodies

_HERE = Path(__file__).parent
_TICKS = os.sysconf("SC_CLK_TCK")
_OVERLOAD = 128  # connections: twice what two replicas have in flight
#: Measured ingresses: HAProxy directly to the replicas, and Serve's own proxy in Python.
_INGRESSES = {
    "mmray": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
    "mmray, Python proxy": {"RAY_SERVE_ENABLE_HA_PROXY": "0"},
}

app = typer.Typer()


@app.command()
def main(
    input: Annotated[str, typer.Option(help="Shards.")] = "data/tuxpaint",
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    variant: Annotated[str, typer.Option(help="Of both.")] = "fp32",
    records: Annotated[int, typer.Option(help="Different records that are sent.")] = 128,
    rounds: Annotated[int, typer.Option(help="Of each server.")] = 3,
    seconds: Annotated[float, typer.Option(help="Of each round.")] = 8.0,
    connections: Annotated[int, typer.Option(help="At saturation.")] = 32,
) -> None:
    """Start both, load them in turns, print the results."""
    env = {**os.environ, "BUNDLE": bundle, "VARIANT": variant, "OMP_NUM_THREADS": "1"}
    bin = Path(sys.executable).parent
    uvicorn = [str(bin / "uvicorn"), "plain_server:app", "--app-dir", str(_HERE / "contenders")]
    commands = {"plain": [*uvicorn, "--workers", "2", "--port", "8600", "--log-level", "warning"]}
    serve = [str(bin / "mmray"), "serve", bundle, "--replicas", "2", "--variant", variant]
    commands |= {name: [*serve, "--port", str(8601 + i)] for i, name in enumerate(_INGRESSES)}
    urls = {name: f"http://127.0.0.1:{8600 + i}" for i, name in enumerate(commands)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for i, body in enumerate(bodies([input], records)):
            (folder / f"{i:04d}").write_bytes(body)
        pids = {}
        for name, command in commands.items():
            process = subprocess.Popen(command, env=env | _INGRESSES.get(name, {}), stdout=subprocess.DEVNULL)
            pids[name] = process.pid
            stack.callback(process.wait)
            stack.callback(process.terminate)
            wait_for(f"{urls[name]}/openapi.json")
            load(urls[name], folder, connections, 2.0)  # warm
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                before_s = cpu_s(pids[name])
                result = load(url, folder, connections, seconds)
                answers = sum(result["statuses"].values())
                found[name].append(result | {"cpu_ms": 1e3 * (cpu_s(pids[name]) - before_s) / answers})
        single = {name: load(url, folder, 1, seconds) for name, url in urls.items()}
        overload = {name: load(url, folder, _OVERLOAD, seconds) for name, url in urls.items()}
    report(found, single, overload)


@app.command(hidden=True)
def generate(url: str, folder: Path, connections: int, seconds: float) -> None:
    """The load generator, in a separate process; prints statuses and latencies as JSON."""
    sent = [file.read_bytes() for file in sorted(folder.iterdir())]
    print(json.dumps(asyncio.run(closed_loop(url, sent, connections, seconds))))


async def closed_loop(url: str, sent: list[bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Statuses, latencies of the good answers, and good answers a second."""
    parts = urlsplit(url)
    numbers, statuses, latencies = count(), Counter[int](), []
    end = time.perf_counter() + seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while (start := time.perf_counter()) < end:
            body = sent[next(numbers) % len(sent)]
            head = (
                f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
                f"Content-Type: {CONTENT_TYPE}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            try:
                status, stays = await answer(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                status, stays = 0, False  # interrupted
            statuses[status] += 1
            if status == 200:
                latencies.append(time.perf_counter() - start)
            else:
                await asyncio.sleep(0.1)  # a refused client waits, but not as long as requested
            if not stays:
                writer.close()
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(connection() for _ in range(connections)))
    took_s = time.perf_counter() - start
    return {
        "per_s": len(latencies) / took_s,
        "p50_ms": 1e3 * float(np.percentile(latencies, 50)),
        "p99_ms": 1e3 * float(np.percentile(latencies, 99)),
        "statuses": {str(status): number for status, number in statuses.items()},
    }


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status of the next answer, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if "transfer-encoding: chunked" in head:
        await reader.readuntil(b"0\r\n\r\n")
    else:
        await reader.readexactly(int(head.partition("content-length: ")[2].partition("\r\n")[0]))
    return int(head.split(" ", 2)[1]), "connection: close" not in head


def load(url: str, folder: Path, connections: int, seconds: float) -> dict[str, Any]:
    """One round, from a second process."""
    command = [sys.executable, __file__, "generate", url, str(folder), str(connections), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def cpu_s(root: int) -> float:
    """CPU time so far of a process and its descendants."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            after_name = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)] = int(after_name[1])
            seconds[int(stat.parent.name)] = sum(map(int, after_name[11:13])) / _TICKS
    ours = {root}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(seconds.get(pid, 0.0) for pid in ours)


def wait_for(url: str) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    raise typer.Exit(3)


def report(found: dict[str, list[dict[str, Any]]], single: dict[str, Any], overload: dict[str, Any]) -> None:
    """The table, and the JSON line."""
    middle = {
        name: {key: median(r[key] for r in rounds) for key in ("per_s", "p50_ms", "p99_ms", "cpu_ms")}
        for name, rounds in found.items()
    }
    ratios = {
        name: [m["per_s"] / p["per_s"] for m, p in zip(found[name], found["plain"], strict=True)]
        for name in _INGRESSES
    }
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("server", "load", "answers/s", "p50 ms", "p99 ms", "CPU ms", "statuses"):
        table.add_column(name)
    for name in found:
        cases = {"saturation": middle[name], "one connection": single[name], "overload": overload[name]}
        for case, figures in cases.items():
            keys = ("per_s", "p50_ms", "p99_ms", "cpu_ms")
            numbers = (f"{figures[key]:.1f}" if key in figures else "" for key in keys)
            table.add_row(name, case, *numbers, str(figures.get("statuses", "")))
    Console().print(table)
    print(
        json.dumps(
            {
                "ratio": {name: round(median(each), 3) for name, each in ratios.items()},
                "ratios": {name: [round(ratio, 3) for ratio in each] for name, each in ratios.items()},
                "saturation": middle,
                "one_connection": single,
                "overload": overload,
            }
        )
    )


if __name__ == "__main__":
    app()
