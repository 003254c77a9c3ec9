"""The house rules, read off the syntax trees: which way imports run, and how long things may grow.

Each rule is a function from source text to a list of complaints, with a test that it bites.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = {  # the rooms of each package: one may import only from those above it
    "pcflow": (
        "errors",
        "checks",
        "evidence",
        "plot",
        "inputs",
        "data",
        "structure",
        "circuit",
        "logic",
        "engine",
        "queries",
        "algebra",
        "construct",
        "io",
        "learn",
        "estimator",
        "testing",
        "__init__",
        "__main__",
    ),
    "pcflow_diffusion": (
        "errors",
        "checks",
        "models",
        "head",
        "decode",
        "plugs",
        "multi_token",
        "train",
        "evaluate",
        "demo",
        "__init__",
    ),
}
MOST_ROOMS = {"pcflow": 20, "pcflow_diffusion": 12}
MAX_FUNCTION = 60  # lines of a body, its docstring apart
HEART = "pcflow/engine/passes.py"
MAX_PASSES = 299  # readable in one sitting

Sources = dict[str, str]  # path from the root, with slashes -> text


def read_sources(package: str) -> Sources:
    files = sorted((ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


@cache
def imported(path: str, source: str) -> tuple[str, ...]:
    """Dotted names that a file imports, anywhere in it: `from a.b import c` gives a.b.c."""
    return tuple(_imported(path, source))


def _imported(path: str, source: str) -> Iterator[str]:
    folders = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def room_of(dotted: str) -> str:
    """The room that a dotted name belongs to; names that a package exports are in `__init__`."""
    package, second, *_ = [*dotted.split("."), "__init__"]
    return second if second in ROOMS[package] else "__init__"


def order_complaints(path: str, source: str) -> list[str]:
    """Imports of a file that run against the order of rooms of its package."""
    package, *rest = PurePosixPath(path).parts
    room, rooms = rest[0].removesuffix(".py"), ROOMS[package]
    if room not in rooms:
        return [f"{path}: place {room!r} in ROOMS, in tests/test_architecture.py"]
    names = imported(path, source)
    outside = [n for n in names if n.split(".")[0] == "pcflow_diffusion" and package == "pcflow"]
    inside = [n for n in names if n.split(".")[0] == package]
    below = [name for name in inside if rooms.index(room_of(name)) > rooms.index(room)]
    return [f"{path}: {room} may not import {name}" for name in outside + below]


def door_complaints(path: str, source: str, sources: Sources) -> list[str]:
    """Imports from another room that are not among the names in the `__all__` of its door."""
    room = "/".join(PurePosixPath(path).parts[:2])
    complaints = []
    for name in imported(path, source):
        parts = name.split(".")
        door = f"{'/'.join(parts[:2])}/__init__.py"
        if door in sources and not door.startswith(f"{room}/"):
            reached = ".".join(parts[2:])
            if reached and reached not in exported(sources[door]):
                complaints.append(f"{path}: {name} is not a name in the __all__ of {door}")
    return complaints


def module_of(dotted: str, modules: dict[str, str]) -> str | None:
    """The module that holds a dotted name: its longest prefix that is one."""
    parts = dotted.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in modules), None)


def cycle_complaints(sources: Sources) -> list[str]:
    """The first cycle among the imports of the given files, if there is one."""
    modules = {
        path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in sources
    }
    graph = {
        module: {module_of(name, modules) for name in imported(path, sources[path])} - {None}
        for module, path in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["imports in a circle: " + " <- ".join(error.args[1])]
    return []


@cache
def exported(source: str) -> frozenset[str]:
    """The names in the `__all__` of a source text."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def face_complaints(path: str, source: str, public: frozenset[str]) -> list[str]:
    """Uses of pcflow by pcflow_diffusion that reach past the names in pcflow's `__all__`."""
    tree = ast.parse(source)
    used = {name for name in imported(path, source) if name.split(".")[0] == "pcflow"}
    aliases = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "pcflow"
    }
    used |= {
        f"pcflow.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in aliases
    }
    allowed = {"pcflow"} | {f"pcflow.{name}" for name in public}
    return [f"{path}: {name} is not a name in pcflow's __all__" for name in sorted(used - allowed)]


INSIDE = {"engine", "banks"}  # of a compiled circuit: parameters and passes are the core's
HANDED_ON = {"pcflow_diffusion/train/modulation.py": 2}  # to `fit`, whose models have an engine


def attribute_complaints(path: str, source: str) -> list[str]:
    """Attributes that reach into a compiled circuit, or are private to somebody else."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr in INSIDE or (private and not own):
                complaints.append(f"{path}:{node.lineno}: {ast.unparse(node)} is not public")
    return complaints


def function_complaints(path: str, source: str) -> list[str]:
    """Functions whose body, without its docstring, is too long."""
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            length = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if length > MAX_FUNCTION:
                complaints.append(f"{path}: {node.name} has {length} lines, over {MAX_FUNCTION}")
    return complaints


def gather(complaints: Iterator[list[str]]) -> str:
    return "\n".join(line for lines in complaints for line in lines)


PCFLOW = read_sources("pcflow")
DIFFUSION = read_sources("pcflow_diffusion")
BOTH = PCFLOW | DIFFUSION


def test_rooms_are_in_order() -> None:
    assert not gather(order_complaints(*item) for item in BOTH.items())


@pytest.mark.parametrize("package", ROOMS)
def test_a_package_has_few_rooms(package: str) -> None:
    entries = {p.name for p in (ROOT / package).iterdir() if p.name != "__pycache__"}
    assert len(entries) <= MOST_ROOMS[package]
    rooms = {name.removesuffix(".py") for name in entries} - {"py.typed"}
    assert rooms == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_the_map_names_every_room(package: str) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    told = [room for room in ROOMS[package] if f"`{room}`" in text or f"`{room}/`" in text]
    assert set(told) | {"__init__"} == set(ROOMS[package])


def test_a_room_is_entered_by_its_door() -> None:
    assert not gather(door_complaints(*item, PCFLOW) for item in PCFLOW.items())


def test_imports_have_no_cycle() -> None:
    assert not cycle_complaints(PCFLOW)
    assert not cycle_complaints(DIFFUSION)


def test_diffusion_uses_only_the_public_face() -> None:
    public = exported(PCFLOW["pcflow/__init__.py"])
    assert not gather(face_complaints(*item, public) for item in DIFFUSION.items())


def test_diffusion_reaches_into_no_attribute_that_is_not_public() -> None:
    found = {path: attribute_complaints(path, source) for path, source in DIFFUSION.items()}
    assert {path: len(some) for path, some in found.items() if some} == HANDED_ON


def test_functions_are_short() -> None:
    assert not gather(function_complaints(*item) for item in BOTH.items())


def test_the_heart_is_read_in_one_sitting() -> None:
    assert len(PCFLOW[HEART].splitlines()) <= MAX_PASSES


def test_order_rule_bites() -> None:
    path = "pcflow/circuit/layers.py"
    assert not order_complaints(path, "import torch\nfrom pcflow.inputs.base import Params")
    assert not order_complaints(path, "from pcflow.circuit.scopes import Scopes")
    for source in (
        "from pcflow.engine import up",
        "import pcflow.engine.passes",
        "from pcflow import engine",
        "from pcflow import Evidence",
        "from ..engine import up",
        "from .. import engine",
        "def f():\n    from pcflow.engine import up",
        "if TYPE_CHECKING:\n    from pcflow.engine import up",
        "import pcflow_diffusion",
    ):
        assert order_complaints(path, source), source
    assert not order_complaints(path, "from ..errors import StructureError")
    adapter = "pcflow_diffusion/head/head.py"
    assert not order_complaints(adapter, "import pcflow as pf")
    assert order_complaints(adapter, "from pcflow_diffusion.decode import generate")


def test_order_rule_asks_for_a_place() -> None:
    assert "place 'misc' in ROOMS" in order_complaints("pcflow/misc.py", "")[0]
    assert "place 'misc' in ROOMS" in order_complaints("pcflow/misc/deep.py", "")[0]


def test_door_rule_bites() -> None:
    sources = {"p/room/__init__.py": '__all__ = ["up"]', "p/room/passes.py": ""}
    assert not door_complaints("p/other/a.py", "from p.room import up", sources)
    assert not door_complaints("p/room/a.py", "from p.room.passes import down", sources)
    for source in ("from p.room.passes import up", "from p.room import down"):
        assert door_complaints("p/other/a.py", source, sources), source


def test_cycle_rule_bites() -> None:
    init = {"p/__init__.py": "from p.a import A"}
    assert not cycle_complaints(init | {"p/a.py": "from p.b import B", "p/b.py": ""})
    assert cycle_complaints(init | {"p/a.py": "from p.b import B", "p/b.py": "from .a import A"})
    assert cycle_complaints(init | {"p/a.py": "from p import A"})


def test_face_rule_bites() -> None:
    path, public = "pcflow_diffusion/head.py", exported('__all__ = ["Evidence", "structure"]')
    for source in (
        "import pcflow as pf\npf.Evidence(pf.structure.chain(3))",
        "from pcflow import Evidence\nfrom pcflow_diffusion.coupling import Projection",
        "from .coupling import Projection",
    ):
        assert not face_complaints(path, source, public), source
    for source in (
        "from pcflow.evidence import Evidence",
        "import pcflow.evidence",
        "import pcflow.evidence as e",
        "from pcflow import engine",
        "import pcflow as pf\npf.engine.up()",
        "import pcflow\npcflow.engine.up()",
    ):
        assert face_complaints(path, source, public), source


def test_attribute_rule_bites() -> None:
    for source in ("model.engine.check(x)", "head.model.banks[0].dtype", "other._shorter"):
        assert attribute_complaints("a.py", source), source
    for source in ("model.dtype", "self._shorter", "cls._made", "error.__cause__"):
        assert not attribute_complaints("a.py", source), source


def test_function_rule_bites() -> None:
    body = "    x = 0\n" * MAX_FUNCTION
    assert not function_complaints("a.py", f'def f():\n    """One.\n\n    Two.\n    """\n{body}')
    assert function_complaints("a.py", f"def f():\n{body}    x = 1\n")
    assert function_complaints("a.py", f"class A:\n  async def f(self):\n{body}    x = 1\n")


def test_what_is_used_rarely_is_imported_late() -> None:
    heavy = ("matplotlib", "networkx", "pandas", "scipy", "sklearn", "hypothesis")
    script = (
        f"import sys, torch; before = set(sys.modules); import pcflow as pf, pcflow_diffusion\n"
        f"print(*[name for name in {heavy} if name in set(sys.modules) - before])\n"
        f"pf.plot.svg(pf.hmm(3, states=2, inputs=pf.Bernoulli()))\n"
        f"print(*{{'matplotlib', 'networkx'}}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")
