"""Floors and fences: nothing imports upward, and the heavy libraries stay in their rooms.

0  errors, lazy, schema, coverage, stats, signals, unread
1  client, digests, storage, put, stores, azure, gcs, s3, remote, urls, ray_address, sources, align, magic,
   preprocess, batching, page
2  config, bundle, drift, golden, engine, loading, cascade, confidence, race, predictor, canary,
   models
3  evaluation, graphs, heads: what those that make bundles share
4  pipeline, serve, importing, variants, scorecards, tracing, load: wings that never import each other
5  training, which stands on variants alone; report, which stands on pipeline alone
6  cli and api, the doors, and `mmray/__main__.py`; `mmray/__init__.py` names what lies behind the second one
"""

import ast
import subprocess
import sys

import pytest
from support.scripts import ROOT

FLOORS = [
    {"errors", "lazy", "schema", "coverage", "stats", "signals", "unread"},
    {
        "client",
        "digests",
        "mirror",
        "storage",
        "put",
        "stores",
        "azure",
        "gcs",
        "s3",
        "remote",
        "urls",
        "ray_address",
        "sources",
        "align",
        "magic",
        "preprocess",
        "batching",
        "shapes",
        "page",
    },
    {
        "config",
        "bundle",
        "golden",
        "engine",
        "loading",
        "cascade",
        "canary",
        "confidence",
        "drift",
        "race",
        "predictor",
        "models",
    },
    {"evaluation", "graphs", "heads"},
    {"pipeline", "serve", "importing", "variants", "scorecards", "tracing", "load"},
    {"training", "report"},
    {"cli", "api", "", "__main__"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
WINGS = FLOORS[4]

FENCES = {
    "ray": {"pipeline", "serve", "training", "api"},
    "torch": {"models", "graphs", "heads", "importing", "training"},
    "onnxruntime": {"engine", "importing", "variants"},
    "matplotlib": {"scorecards", "training", "page", "report", "load"},
}

#: What the rooms above come in by: nobody else names their modules.
DOORS = {"evaluation", "graphs", "heads", "importing", "variants", "scorecards", "predictor"}
#: Doors within a room.
INNER_DOORS = {"mmray.variants.quantize", "mmray.variants.gate"}

FILES = sorted((ROOT / "mmray").rglob("*.py"))
JOBS = sorted((ROOT / "jobs").rglob("*.py"))


def module_of(file):
    """Dotted name and its room: the part of mmray that it belongs to ("" for mmray itself)."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts), parts[1] if len(parts) > 1 else ""


def imports_of(source, package):
    """Absolute names of all modules that some source imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_of(file):
    """Rooms of mmray that a file imports."""
    name, _ = module_of(file)
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    imported = [target.split(".") for target in imports_of(file.read_text(), package)]
    return {
        parts[1] for parts in imported if parts[0] == "mmray" and len(parts) > 1 and parts[1] != "__version__"
    }


def packages_of(file):
    """Top-level packages that a file imports."""
    return {target.split(".")[0] for target in imports_of(file.read_text(), "mmray")}


def ids(file):
    return str(file.relative_to(ROOT))


def test_every_module_has_a_floor():
    rooms = {module_of(file)[1] for file in FILES} - {""}
    assert rooms <= set(FLOOR_OF), "new modules need a floor in this test and in the docs"
    assert len(rooms) > 10


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_nothing_imports_upward(file):
    room = module_of(file)[1]
    floor = FLOOR_OF[room]
    upward = {other for other in rooms_of(file) if FLOOR_OF[other] > floor}
    assert not upward


@pytest.mark.parametrize("file", [f for f in FILES if module_of(f)[1] in WINGS], ids=ids)
def test_the_wings_do_not_import_each_other(file):
    assert not rooms_of(file) & WINGS - {module_of(file)[1]}


@pytest.mark.parametrize(("room", "wing"), [("training", "variants"), ("report", "pipeline")])
def test_what_stands_on_the_wings_stands_on_one_alone(room, wing):
    files = [file for file in FILES if module_of(file)[1] == room]
    assert set().union(*map(rooms_of, files)) & WINGS == {wing}


@pytest.mark.parametrize("file", [f for f in [*FILES, *JOBS] if module_of(f)[1] not in DOORS], ids=ids)
def test_a_room_with_a_door_is_entered_by_its_door(file):
    """What is imported is the door, or a name that the door gives."""
    modules = {module_of(other)[0] for other in FILES}
    for target in imports_of(file.read_text(), module_of(file)[0].rpartition(".")[0]):
        parts = target.split(".")
        if parts[0] == "mmray" and len(parts) > 2 and parts[1] in DOORS:
            place = target if target in modules else target.rpartition(".")[0]
            assert place in {f"mmray.{parts[1]}", *INNER_DOORS}, f"{target}: {place} is behind a door"


def test_no_room_imports_in_a_circle():
    graph = {room: set() for room in FLOOR_OF}
    for file in FILES:
        room = module_of(file)[1]
        graph[room] |= rooms_of(file) - {room}
    assert not circle_in(graph)


def test_no_module_imports_in_a_circle():
    """`mmray` itself is left out: it loads what its names stand for when they are used."""
    modules = {module_of(file)[0] for file in FILES} - {"mmray"}
    graph = {}
    for file in FILES:
        name = module_of(file)[0]
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        targets = imports_of(file.read_text(), package)
        graph[name] = {t if t in modules else t.rpartition(".")[0] for t in targets} & modules - {name}
    assert not circle_in(graph)


def circle_in(graph):
    """Nodes that lie on a circle, or lead to one; empty where there is none."""
    left = {node: set(targets) for node, targets in graph.items()}
    while free := {node for node, targets in left.items() if not targets & left.keys()}:
        left = {node: targets for node, targets in left.items() if node not in free}
    return left


@pytest.mark.parametrize("library", FENCES)
def test_heavy_libraries_stay_behind_their_fences(library):
    users = {module_of(file)[1] for file in FILES if library in packages_of(file)}
    assert users <= FENCES[library]
    assert users, "the fence has nothing to hold: the test would not notice a broken parser"


def test_imports_are_found_wherever_they_hide():
    source = """
import a.b, c as d
from e import f
from . import g
from .h import i
from ..j import k
def function():
    import l
    if True:
        from m import n
if TYPE_CHECKING:
    import o
"""
    found = set(imports_of(source, "mmray.x"))
    assert found == {"a.b", "c", "e.f", "mmray.x.g", "mmray.x.h.i", "mmray.j.k", "l", "m.n", "o"}


@pytest.mark.parametrize(
    "module", ["mmray.predictor", "mmray.pipeline.fused", "mmray.pipeline.split", "mmray.pipeline.run"]
)
def test_a_worker_never_loads_torch(module):
    """It would cost each of them seconds and hundreds of megabytes."""
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr or f"{module} imports torch"


def test_the_package_itself_loads_nothing():
    script = (
        "import sys, mmray; print({n for n in sys.modules if n.startswith('mmray.')} - {'mmray.lazy'}"
        " | {'ray', 'torch', 'onnxruntime', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


def test_the_command_line_answers_before_anything_heavy_is_loaded():
    script = "import sys, mmray.cli; print({'ray', 'torch', 'onnxruntime', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr
