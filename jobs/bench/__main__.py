"""The door to the benchmarks and studies: what there is, and each of them by its name.

python jobs/bench              what each shows, its command with the time it takes, and what is expected
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
    """What a script's docstring says: its first line, its command, and what is expected."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    title, *paragraphs = text.split("\n\n")
    command = next(part for part in paragraphs if part.startswith("    "))
    expected = re.findall(r"Expected.*", text, re.DOTALL)[0].partition("\n\n")[0]
    indented = textwrap.fill(" ".join(expected.split()), 110, initial_indent="  ", subsequent_indent="  ")
    return f"{script.stem}: {title}\n{command}\n{indented}"


if __name__ == "__main__":
    main()
