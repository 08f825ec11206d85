"""The rules of the house that no linter knows: where files stand, how long they are, what their READMEs name."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "initramfs/megamod"
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
LONGEST = 400


def rooms_with_a_page() -> list[Path]:
    """The folders whose README.md has a table of files: those directly in the package, and what is large below them."""
    return [room for room in ROOMS if (room / "README.md").exists()]


def test_the_package_and_its_rooms_are_found() -> None:
    assert len(ROOMS) > 15
    assert len(MODULES) > 100


@pytest.mark.parametrize("room", [room for room in ROOMS if room.parent == PACKAGE], ids=lambda room: room.name)
def test_every_room_has_a_readme(room: Path) -> None:
    assert (room / "README.md").is_file()


@pytest.mark.parametrize("room", rooms_with_a_page(), ids=lambda room: str(room.relative_to(PACKAGE)))
def test_a_readme_names_every_file_of_its_room(room: Path) -> None:
    page = (room / "README.md").read_text()
    below = [path for path in rooms_with_a_page() if path != room and path.is_relative_to(room)]
    own = [path for path in MODULES if path.is_relative_to(room) and not any(path.is_relative_to(b) for b in below)]
    assert [path.name for path in own if path.name not in page] == []


@pytest.mark.parametrize("room", rooms_with_a_page(), ids=lambda room: str(room.relative_to(PACKAGE)))
def test_a_readme_names_no_file_that_is_gone(room: Path) -> None:
    table = re.findall(r"^\|[^|]*`([\w./]+\.py)`", (room / "README.md").read_text(), re.MULTILINE)
    assert [name for name in table if not list(room.rglob(name)) and not (room / name).exists()] == []


@pytest.mark.parametrize("page", [*sorted(TOP.glob("*/**/README.md")), TOP / "README.md"], ids=str)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    if any(part.startswith(".") for part in page.relative_to(TOP).parts):
        return
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


def test_no_file_of_the_package_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}


def test_no_file_name_is_used_more_than_twice() -> None:
    counts = Counter(path.name for path in MODULES)
    assert {name for name, count in counts.items() if count > 2} == set()


def test_no_two_files_import_each_other() -> None:
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    graph = {name: imports_of(path) & names.keys() - {name} for name, path in names.items()}
    assert sum(map(len, graph.values())) > 400
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports from, late imports and those for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
