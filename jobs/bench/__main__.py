"""Runs the benchmarks and studies by name, and lists them.

python jobs/bench              what each shows, its command with its duration, and the expected result
python jobs/bench NAME …       the same as python jobs/bench/NAME.py …
"""

import ast
import os
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run the named script, or list all of them."""
    scripts = {file.stem: file for file in sorted(HERE.glob("[a-z]*.py"))}
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in scripts:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, str(scripts[name]), *arguments])
    if name not in ("--help", "-h"):
        sys.exit(f"jobs/bench: no {name!r}; there are {', '.join(scripts)}")
    print("\n\n".join(told(file) for file in scripts.values()))


def told(script: Path) -> str:
    """Parts of a script's docstring: its first line, its command, and the expected result."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    title, *paragraphs = text.split("\n\n")
    command = next(part for part in paragraphs if part.startswith("    "))
    expected = re.findall(r"Expected.*", text, re.DOTALL)[0].partition("\n\n")[0]
    indented = textwrap.fill(" ".join(expected.split()), 110, initial_indent="  ", subsequent_indent="  ")
    return f"{script.stem}: {title}\n{command}\n{indented}"


if __name__ == "__main__":
    main()
