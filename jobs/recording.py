"""Record `mmray run` and `mmray audit` on the stamps as an animated SVG: that of README.md and docs/index.md.

    pip install 'asciinema<3'
    python jobs/recording.py --output docs/images/run.svg     # after `make demo`; a minute

asciinema runs both commands in a terminal of its own, in /tmp/demo, so that no path of this machine is shown;
svg-term-cli (npm) draws what it wrote. The records are those of the test and tune splits: a run over those
that the model was trained on warns that it is surer of them (docs/drift.md). Pauses are cut to a second, and
the end stays. Expected: less than 100 KB, and `audit clean` in the last picture.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

COMMANDS = (
    "mmray run --input 'data/tuxpaint/t{est,une}-*.tar' --bundle bundles/stamps --output runs/mine",
    "mmray audit runs/mine",
)
COLUMNS, ROWS = 110, 23
SVG_TERM = "svg-term-cli@2.1.1"
BACKGROUND = "#282d35"  # of svg-term
LONGEST_PAUSE_S, END_S = 1.0, 6.0


def main(
    output: Annotated[Path, typer.Option(help="SVG to write.")],
    data: Annotated[Path, typer.Option(help="Folder of shards.")] = Path("data/tuxpaint"),
    bundle: Annotated[Path, typer.Option(help="Bundle directory.")] = Path("bundles/stamps"),
) -> None:
    """Record, shorten, draw."""
    demo = Path("/tmp/demo")
    demo.mkdir()  # one that is there is somebody else's
    try:
        for link, target in (("data/tuxpaint", data), ("bundles/stamps", bundle)):
            (demo / link).parent.mkdir()
            (demo / link).symlink_to(target.resolve())
        cast = record(demo)
        cast.write_text(timed(cast.read_text()))
        draw = ["npx", "--yes", SVG_TERM, "--in", str(cast), "--out", str(output.resolve())]
        subprocess.run([*draw, "--window", "--no-cursor"], check=True)
        output.write_text(apart(output.read_text()))
    finally:
        shutil.rmtree(demo)


def record(demo: Path) -> Path:
    """What a terminal shows while the commands run in this folder, as asciinema writes it."""
    shown = "; ".join(f"printf '\\e[32m$\\e[0m %s\\n' {shlex.quote(line)}; {line}" for line in COMMANDS)
    cast = demo / "run.cast"
    command = [sys.executable, "-m", "asciinema", "rec", "--quiet", str(cast), "--command", shown]
    command += ["--cols", str(COLUMNS), "--rows", str(ROWS)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SHELL": "/bin/bash", "TERM": "xterm-256color"}
    subprocess.run(command, check=True, cwd=demo, env=environment)
    return cast


def timed(cast: str) -> str:
    """The same with shorter pauses: a header, then an event a line of seconds, kind and text."""
    header, *events = cast.splitlines()
    lines, before, now = [header], 0.0, 0.0
    for at, kind, text in map(json.loads, events):
        now += min(at - before, LONGEST_PAUSE_S)
        before = at
        lines.append(json.dumps([round(now, 3), kind, text]))
    lines.append(json.dumps([now + END_S, "o", "\x1b[0m"]))
    return "\n".join(lines) + "\n"


def apart(svg: str) -> str:
    """Nothing of the pictures before and after is seen at the edges: they lie side by side and are moved.

    Letters become a little smaller, since some fonts are wider than svg-term thinks; each edge gets a line.
    """
    edges = f'<path d="M15 40V9999M{15 + 10 * COLUMNS} 40V9999" stroke="{BACKGROUND}" stroke-width="3"/>'
    return edges.join(svg.replace('font-size="1.67"', 'font-size="1.65"').rsplit("</svg>", 1)) + "</svg>"


if __name__ == "__main__":
    typer.run(main)
