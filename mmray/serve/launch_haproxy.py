"""Run in HAProxy's place: makes the config that Ray generated private, then becomes HAProxy.

    python launch_haproxy.py BINARY ERROR_FILE [HAProxy's arguments, among them -f CONFIG]

Ray starts and reloads HAProxy the same way, so this holds after a reload, too. A config that is not as
Ray 2.60 writes it (ray/serve/_private/haproxy_templates.py) is refused: no server is better than an open one.
The standard library alone, and nothing of ours: it runs at each reload.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

# HAProxy's own metrics and statistics listen on all addresses. Ray asks the control socket instead.
_UNWANTED = ("frontend prometheus", "listen stats")
_EDITS = (
    # Whoever may write to it commands HAProxy.
    (1, r"^( +stats socket \S+ mode )666( level admin\b)", r"\g<1>600\2"),
    # An hour for a client that says nothing; no bound on a head that trickles.
    (1, r"^( +)timeout client \d+s$", r"\1timeout client 60s\n\1timeout http-request 20s"),
    # Ray tells a client 500 when no replica can answer, or the one that did has died: it may come again.
    (3, r"^( +errorfile 50[234] )\S+$", r"\1ERROR_FILE"),
    # Serve's proxy, which stands in where no replica is left, says so of a bundle that is being removed.
    (
        1,
        r"^( +)bind \S+$",
        r"\g<0>\n\1http-response return status 503 default-errorfiles "
        r"if { status 404 } { res.hdr(content-type) -m beg text/plain }",
    ),
)
# Before the first bundle is served, and after the last, no path is wrong.
_NOTHING_SERVED = (
    1,
    r"^( +http-request return status )404 content-type text/plain lf-string .*$",
    r"\g<1>503 default-errorfiles",
)


def private(config: str, error_file: str) -> str:
    """The config with the frontend as its only listener.

    Args:
        config: as Ray generated it.
        error_file: what a client is told where HAProxy itself has to answer.

    Raises:
        ValueError: it is not as Ray 2.60 writes it.
    """
    sections = re.split(r"^(?=\S)", config, flags=re.MULTILINE)
    kept = [section for section in sections if section.partition("\n")[0] not in _UNWANTED]
    _expect(len(sections) - len(kept), len(_UNWANTED), "sections of metrics and statistics")
    config = "".join(kept)
    _expect(len(re.findall(r"^\s*bind\s", config, flags=re.MULTILINE)), 1, "listeners")
    for count, pattern, replacement in _EDITS:
        config = _edit(config, count, pattern, replacement.replace("ERROR_FILE", error_file))
    if not re.search(r"^ +use_backend ", config, flags=re.MULTILINE):
        config = _edit(config, *_NOTHING_SERVED)
    return config


def _edit(config: str, count: int, pattern: str, replacement: str) -> str:
    config, found = re.subn(pattern, replacement, config, flags=re.MULTILINE)
    _expect(found, count, pattern)
    return config


def _expect(found: int, wanted: int, what: str) -> None:
    if found != wanted:
        raise ValueError(f"not the HAProxy config that Ray 2.60 writes: {found} of {what}, expected {wanted}")


def main(binary: str, error_file: str, arguments: Sequence[str]) -> NoReturn:
    """Become HAProxy."""
    file = Path(arguments[arguments.index("-f") + 1])
    file.write_text(private(file.read_text(), error_file))
    os.execv(binary, [binary, *arguments])


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except (OSError, ValueError) as e:
        sys.exit(f"{Path(__file__).name}: {e}")
