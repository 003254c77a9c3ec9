"""The house rules, read off the syntax trees: which way imports run, and how long things may grow.

Each rule is a function from source text to a list of complaints, with a test that it bites.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent

ORDER = (  # the modules and packages in pcflow: each may import only from those above it
    "errors",
    "files",
    "datasets",
    "region_graph",
    "structure",
    "inputs",
    "encoding",
    "columns",
    "mixture_em",
    "layers",
    "scopes",
    "pairing",
    "supports",
    "properties",
    "circuit",
    "rebuild",
    "description",
    "initial",
    "build",
    "augment",
    "logic",
    "spn",
    "evidence",
    "reference",
    "massed",
    "overlap",
    "multiplication",
    "transform",
    "kernels",
    "semiring",
    "log_semiring",
    "schedule",
    "rows",
    "plan",
    "tables",
    "routes",
    "leaves",
    "memory",
    "tape",
    "descent",
    "passes",
    "engine",
    "autograd",
    "queries",
    "gauss_seidel",
    "projection",
    "compiled",
    "moments",
    "bounds",
    "estimates",
    "information",
    "trees",
    "learn",
    "refine",
    "io",
    "estimator",
    "plot",
    "testing",
    "__init__",
)
MAX_FUNCTION = 60  # lines of a body, its docstring apart
MAX_FILE = 400
MAX_PASSES = 299  # the heart, readable in one sitting

Sources = dict[str, str]  # path from the root, with slashes -> text


def read_sources(package: str) -> Sources:
    files = sorted((ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}


def imported(path: str, source: str) -> Iterator[str]:
    """Dotted names that a file imports, anywhere in it: `from a.b import c` gives a.b.c."""
    folders = PurePosixPath(path).parent.parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) - node.level + 1] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def unit_of(dotted: str) -> str:
    """The entry of ORDER that a dotted name inside pcflow belongs to."""
    second = [*dotted.split("."), "__init__"][1]
    return second if second in ORDER else "__init__"


def order_complaints(path: str, source: str) -> list[str]:
    """Imports of a file in pcflow that run against ORDER."""
    unit = PurePosixPath(path).parts[1].removesuffix(".py")
    if unit not in ORDER:
        return [f"{path}: place {unit!r} in ORDER, in tests/test_architecture.py"]
    names = list(imported(path, source))
    outside = [name for name in names if name.split(".")[0] == "pcflow_diffusion"]
    inside = [name for name in names if name.split(".")[0] == "pcflow"]
    below = [name for name in inside if ORDER.index(unit_of(name)) > ORDER.index(unit)]
    return [f"{path}: {unit} may not import {name}" for name in outside + below]


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


def exported(source: str) -> set[str]:
    """The names in the `__all__` of a source text."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def face_complaints(path: str, source: str, public: set[str]) -> list[str]:
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


def file_complaints(path: str, source: str) -> list[str]:
    """The file itself, if it is too long."""
    limit = MAX_PASSES if path == "pcflow/passes.py" else MAX_FILE
    length = len(source.splitlines())
    return [f"{path} has {length} lines, over {limit}"] if length > limit else []


def gather(complaints: Iterator[list[str]]) -> str:
    return "\n".join(line for lines in complaints for line in lines)


PCFLOW = read_sources("pcflow")
DIFFUSION = read_sources("pcflow_diffusion")
BOTH = PCFLOW | DIFFUSION


def test_imports_run_one_way() -> None:
    assert not gather(order_complaints(*item) for item in PCFLOW.items())


def test_imports_have_no_cycle() -> None:
    assert not cycle_complaints(PCFLOW)
    assert not cycle_complaints(DIFFUSION)


def test_diffusion_uses_only_the_public_face() -> None:
    public = exported(PCFLOW["pcflow/__init__.py"])
    assert not gather(face_complaints(*item, public) for item in DIFFUSION.items())


def test_functions_are_short() -> None:
    assert not gather(function_complaints(*item) for item in BOTH.items())


def test_files_are_short() -> None:
    assert "pcflow/passes.py" in PCFLOW
    assert not gather(file_complaints(*item) for item in BOTH.items())


def test_order_rule_bites() -> None:
    path = "pcflow/circuit.py"
    assert not order_complaints(path, "import torch\nfrom pcflow.inputs.base import Params")
    for source in (
        "from pcflow.passes import up",
        "import pcflow.passes",
        "from pcflow import passes",
        "from pcflow import Evidence",
        "from .passes import up",
        "from . import passes",
        "def f():\n    from pcflow.passes import up",
        "if TYPE_CHECKING:\n    from pcflow.passes import up",
        "import pcflow_diffusion",
    ):
        assert order_complaints(path, source), source
    assert order_complaints("pcflow/inputs/base.py", "from ..circuit import Circuit")
    assert not order_complaints("pcflow/inputs/base.py", "from ..errors import StructureError")


def test_order_rule_asks_for_a_place() -> None:
    assert "place 'misc' in ORDER" in order_complaints("pcflow/misc.py", "")[0]
    assert "place 'misc' in ORDER" in order_complaints("pcflow/misc/deep.py", "")[0]


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
        "from pcflow import passes",
        "import pcflow as pf\npf.passes.up()",
        "import pcflow\npcflow.passes.up()",
    ):
        assert face_complaints(path, source, public), source


def test_function_rule_bites() -> None:
    body = "    x = 0\n" * MAX_FUNCTION
    assert not function_complaints("a.py", f'def f():\n    """One.\n\n    Two.\n    """\n{body}')
    assert function_complaints("a.py", f"def f():\n{body}    x = 1\n")
    assert function_complaints("a.py", f"class A:\n  async def f(self):\n{body}    x = 1\n")


def test_file_rule_bites() -> None:
    assert not file_complaints("pcflow/plan.py", "\n" * MAX_FILE)
    assert file_complaints("pcflow/plan.py", "\n" * (MAX_FILE + 1))
    assert not file_complaints("pcflow/passes.py", "\n" * 299)
    assert file_complaints("pcflow/passes.py", "\n" * 300)
