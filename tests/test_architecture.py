"""Imports point down: read from the syntax tree, so that no one has to remember it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "grpocket"

ALLOWED = {
    "records": set(),
    "config": {"records"},
    "settings": {"config", "records"},
    "flags": {"settings", "config", "records"},
    "memory": set(),
    "algo": {"algo"},
    "model": {"model", "config", "records"},
    "engine": {"engine", "model", "memory", "records"},
    "tasks": {"tasks", "records"},
    "learn": {"learn", "model", "algo", "config", "memory", "records"},
    "evaluate": {"evaluate", "tasks", "records"},
    "report": {"report", "evaluate", "records"},
}
NO_TORCH = {"records", "config", "tasks", "report", "cli", "flags", "settings", "evaluate", "memory"}
FILES = sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Dotted names imported anywhere in the file, ours made absolute."""
    package = ["grpocket", *path.relative_to(SOURCE).parts[:-1]]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found.add(".".join([*base, *([node.module] if node.module else [])]))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    if room(path) not in ALLOWED:  # the front doors may use every room
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("grpocket.")}
    assert ours <= ALLOWED[room(path)]


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in NO_TORCH], ids=lambda p: str(p.relative_to(SOURCE)))
def test_rooms_without_tensors_do_not_wait_for_torch(path):
    heavy = {name.split(".")[0] for name in imports(path, top_level_only=True)} & {
        "torch",
        "transformers",
        "peft",
        "matplotlib",
    }
    assert not heavy


def test_no_module_shadows_the_standard_library():
    import sys

    assert not {p.stem for p in FILES if p.stem != "__init__"} & (sys.stdlib_module_names - {"__main__"})


def test_every_module_says_what_it_is():
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_nothing_is_pickled_or_evaluated():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bpickle\b|torch\.(load|save)\(|(?<![\w.])(eval|exec)\(", text), path


def test_the_tree_in_the_readme_is_the_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in FILES:
        if path.stem not in ("__init__", "__main__"):
            assert re.search(rf"\b{re.escape(path.name)}\b", readme), f"{path.name} is missing in README.md"


def test_every_promise_names_a_test_that_exists():
    tests = Path(__file__).parent
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (tests.parent / "README.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    for file, test in named:
        assert f"def {test}(" in (tests / file).read_text(encoding="utf-8"), (file, test)
