"""No benchmark is forgotten: `.ci/run` runs every command in benchmarks/ at toy size."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"
SOURCES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}


def complaints(sources: dict[str, str]) -> list[str]:
    """Files that CI would not run, or not at toy size."""
    commands = {
        name for name, source in sources.items() if '\nif __name__ == "__main__":' in source
    }
    used = {module for source in sources.values() for module in imported(source)}
    unused = sorted(set(sources) - commands - used)
    deaf = sorted(name for name in commands if "arguments(__doc__)" not in sources[name])
    return [f"{name}: neither a command nor imported by one" for name in unused] + [
        f"{name}: takes no --toy, see toy.arguments" for name in deaf
    ]


def imported(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def test_every_benchmark_runs_at_toy_size() -> None:
    assert not complaints(SOURCES)


def test_a_forgotten_benchmark_is_noticed() -> None:
    command = 'parser = arguments(__doc__)\nif __name__ == "__main__":\n    main()\n'
    assert not complaints({"a": "from b import c\n" + command, "b": ""})
    assert complaints({"a": command, "b": ""}) == ["b: neither a command nor imported by one"]
    deaf = command.replace("arguments(__doc__)", "ArgumentParser()")
    assert complaints({"a": deaf}) == ["a: takes no --toy, see toy.arguments"]


def test_the_command_for_a_card_has_every_part_and_ends_in_nine_minutes() -> None:
    script = (FOLDER / "gpu.sh").read_text(encoding="utf-8")
    seconds = {name: int(most) for name, most in re.findall(r"\[(\w+)\]=(\d+)", script)}
    commands = {name for name, source in SOURCES.items() if "__main__" in source}
    measured = {name.removeprefix("gpu_") for name in commands if name.startswith("gpu_")}
    assert seconds.keys() == {"tests"} | measured
    assert sum(seconds.values()) <= 9 * 60
