"""The house rules that a machine can hold, each with a snippet that breaks it.

A rule is a function from source text to complaints, so that it can be fed the snippet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The floors, from the lowest: none knows the ones behind it.
FLOORS = ("pagealloc", "workers", "stress")
PRODUCT = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
LIBRARY = [path for path in PRODUCT if path.relative_to(ROOT).parts[0] != "stress"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# The rooms of floor 3 and its loose files, from the lowest: a room imports only what stands before it.
ROOMS = (
    ("errors",),
    ("system", "provenance"),
    ("pool", "formats", "invariants", "mutants", "controlled"),
    ("log", "golden"),
    ("analysis", "run", "search"),
    ("lab", "host"),
    ("bench",),
    ("hunt",),
    ("cli", "pytest_plugin", "procfs"),
    ("__main__",),
)
LOOSE_FILES_MAX = 7

# Methods and functions that others find by how their names begin.
CALLED_BY_PREFIX = ("__", "_op_", "visit_", "pytest_", "test_")

DOOR = ROOT / "pagealloc" / "sync_real.py"  # the one module that may know real threads, time and chance
BEHIND_THE_DOOR = {"_thread", "random", "threading", "time"}
IMPORT_BY_NAME = {"__import__", "import_module"}

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
LINE_LENGTH_MAX = 120  # the formatter keeps code to 110; prose that it cannot break may be a little longer

# Where people keep things on their machines; put together here, so that this file passes its own rule.
MACHINE_PATHS = tuple(f"/{name}/" for name in ("work", "farm", "tmp", "home", "root", "Users"))
TEXT_SUFFIXES = ("", ".cfg", ".ini", ".json", ".lock", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml")
TEXT_FOLDERS = (".ci", ".github", "docs", "tests", *FLOORS)

Complaints = list[str]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- the rules -----------------------------------------------------------------------------------------


def imported_modules(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every import, wherever it stands; "." for a relative one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module if node.module and not node.level else "."
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if called in IMPORT_BY_NAME:
                yield node.lineno, str(node.args[0].value)


def imported_names(source: str) -> set[str]:
    """Return every module that a source imports, and everything that it imports from one."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def imports_of(source: str, forbidden: set[str]) -> Complaints:
    """Complain of imports of the forbidden packages, and of relative ones, which do not say."""
    return [
        f"line {line}: imports {module}"
        for line, module in imported_modules(source)
        if module.partition(".")[0] in forbidden or module == "."
    ]


def long_functions(source: str) -> Complaints:
    return [
        f"line {node.lineno}: {node.name} has {lines} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def long_file(source: str) -> Complaints:
    lines = len(source.splitlines())
    return [f"{lines} lines"] if lines > FILE_LINES_MAX else []


def long_lines(source: str) -> Complaints:
    return [
        f"line {number}: {len(line)} characters"
        for number, line in enumerate(source.splitlines(), 1)
        if len(line) > LINE_LENGTH_MAX
    ]


def missing_docstrings(source: str) -> Complaints:
    """Complain of a module, or a public class at its top level, that does not say what it is."""
    module = ast.parse(source)
    complaints = [] if ast.get_docstring(module) else ["the module has no docstring"]
    return complaints + undocumented(module, (ast.ClassDef,))


def undocumented_functions(source: str) -> Complaints:
    """Complain of a public function at the top level that does not say what it does."""
    return undocumented(ast.parse(source), (ast.FunctionDef, ast.AsyncFunctionDef))


def undocumented(
    module: ast.Module, kinds: tuple[type[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef], ...]
) -> Complaints:
    return [
        f"line {node.lineno}: {node.name} has no docstring"
        for node in module.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]


def machine_paths(text: str) -> Complaints:
    return [
        f"line {number}: names a path of one machine"
        for number, line in enumerate(text.splitlines(), 1)
        if any(path in line for path in MACHINE_PATHS)
    ]


def import_cycles(imports: dict[str, set[str]]) -> Complaints:
    """Complain of modules that import each other, however far around; `imports` has them by name."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> Complaints:
        if module in path:
            return [" -> ".join([*path[path.index(module) :], module])]
        if module in done:
            return []
        found = [circle for other in sorted(imports[module]) for circle in walk(other, [*path, module])]
        done.add(module)
        return found

    return [circle for module in sorted(imports) for circle in walk(module, [])]


def rooms_above(module: str, imported: set[str]) -> Complaints:
    """Complain of what a module of floor 3 imports from its own storey or from above, its own room left out."""
    storeys = {room: storey for storey, rooms in enumerate(ROOMS) for room in rooms}
    room = module.split(".")[1]
    if room not in storeys:
        return [f"{room} is no room: add it to ROOMS"]
    others = {name.split(".")[1] for name in imported if name.startswith("stress.")} - {room}
    return [f"imports {other}" for other in sorted(others) if storeys.get(other, len(ROOMS)) >= storeys[room]]


def wrong_preface(preface: str, modules: set[str]) -> Complaints:
    """Complain of a preface that lists modules, and not those which there are."""
    listed = re.findall(r"^ *`?(\w+)`?(?:\.py)?  +\S", preface, re.MULTILINE)
    first_words = set(listed)
    if not first_words & modules:
        return []  # it lists none
    return [
        *(f"lacks {name}" for name in sorted(modules - first_words)),
        *(f"lists {name}, which is none" for name in sorted(first_words - modules)),
        *(f"lists {name} twice" for name in sorted(first_words) if listed.count(name) > 1),
    ]


def indices_abroad(source: str) -> Complaints:
    """Complain of a page's index inside its zone, which nobody but floor 1 may know."""
    return [
        f"line {node.lineno}: reckons with base_pfn"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and node.attr == "base_pfn"
    ]


def defined_names(source: str) -> Iterator[str]:
    """Yield the functions, classes and constants that a module defines at its top level, and its classes' methods.

    What is decorated, or a class with arguments, is known to whoever it was given to.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not is_registered(node):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            yield from (part.name for part in methods if not is_registered(part))


def is_registered(node: ast.FunctionDef | ast.ClassDef) -> bool:
    properties = {"property", "staticmethod", "classmethod", "dataclass", "contextmanager", "cache"}
    decorators = {
        name for one in node.decorator_list if (name := getattr(getattr(one, "func", one), "id", ""))
    }
    return bool(decorators - properties) or bool(isinstance(node, ast.ClassDef) and node.keywords)


def used_names(source: str) -> set[str]:
    """Return all names that a source reads, in its code and in its texts: a diff and a table name things, too."""
    module = ast.parse(source)
    prefaces = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    used: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            used.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prefaces:
            used.update(re.findall(r"\w+", node.value))
    return used


def dead_definitions(sources: dict[str, str], mentioned: set[str]) -> Complaints:
    """Complain of definitions that no source uses; what is `mentioned` has users elsewhere."""
    used = mentioned.union(*map(used_names, sources.values()))
    return [
        f"{path}: nothing uses {name}"
        for path, source in sources.items()
        for name in defined_names(source)
        if name not in used and not name.startswith(CALLED_BY_PREFIX)
    ]


def asserts_that_guard(source: str) -> Complaints:
    """Complain of an assert that does more than to say a type: -O removes it, and what it guards with it."""
    return [
        f"line {node.lineno}: {ast.unparse(node.test)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert) and not says_a_type(node.test)
    ]


def says_a_type(test: ast.expr) -> bool:
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and ast.unparse(test.comparators[0]) == "None"
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"


# -- the house -----------------------------------------------------------------------------------------


def text_files() -> Iterator[Path]:
    """Yield the files that people read: those at the top, and all below the folders that belong to us."""
    folders = [ROOT / folder for folder in TEXT_FOLDERS]
    inside = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    for path in [*ROOT.iterdir(), *inside]:
        # In a worktree .git is a file, and says where the repository is.
        if path.is_file() and path.suffix in TEXT_SUFFIXES and not {"__pycache__", ".git"} & {*path.parts}:
            yield path


def ids(paths: list[Path]) -> list[str]:
    return [name_of(path) for path in paths]


def test_there_is_a_house() -> None:
    assert DOOR in PRODUCT
    assert all((ROOT / floor / "__init__.py") in PRODUCT for floor in FLOORS)
    assert Path(__file__) in TESTS
    assert {ROOT / "pyproject.toml", DOOR, Path(__file__)} <= set(text_files())


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_threads_time_and_chance_come_through_one_door(path: Path) -> None:
    complaints = imports_of(path.read_text(), BEHIND_THE_DOOR)

    assert bool(complaints) == (path == DOOR), complaints


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_imports_go_down_only(path: Path) -> None:
    floor = path.relative_to(ROOT).parts[0]
    above = {"tests", *FLOORS[FLOORS.index(floor) + 1 :]}

    assert imports_of(path.read_text(), above) == []


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def product_imports() -> dict[str, set[str]]:
    """Return what each module of the product imports of the product, module by module."""
    modules = {module_of(path): path for path in PRODUCT}
    return {
        module: {name for name in imported_names(path.read_text()) if name in modules} - {module}
        for module, path in modules.items()
    }


def test_no_two_files_import_each_other() -> None:
    assert import_cycles(product_imports()) == []


def test_rooms_import_only_what_is_below_them() -> None:
    found = {
        module: complaints
        for module, imported in product_imports().items()
        if module.startswith("stress.") and (complaints := rooms_above(module, imported))
    }

    assert found == {}


def test_few_files_lie_loose_beside_the_rooms() -> None:
    loose = sorted(path.name for path in (ROOT / "stress").glob("*.py") if path.name != "__init__.py")

    assert len(loose) <= LOOSE_FILES_MAX, loose


def test_a_preface_that_lists_modules_lists_them_all() -> None:
    found = {}
    for path in PRODUCT:
        if path.name == "__init__.py":
            preface = ast.get_docstring(ast.parse(path.read_text())) or ""
            inside = {other.stem for other in path.parent.glob("*.py")} - {"__init__"}
            inside |= {other.parent.name for other in path.parent.glob("*/__init__.py")}
            if complaints := wrong_preface(preface, inside):
                found[name_of(path)] = complaints

    assert found == {}


ABOVE_THE_INDEX = [path for path in PRODUCT if path.relative_to(ROOT).parts[0] != "pagealloc"]


@pytest.mark.parametrize("path", ABOVE_THE_INDEX, ids=ids(ABOVE_THE_INDEX))
def test_an_index_never_leaves_the_lowest_floor(path: Path) -> None:
    assert indices_abroad(path.read_text()) == []


def test_nothing_is_defined_that_nobody_uses() -> None:
    sources = {name_of(path): path.read_text() for path in PRODUCT}
    texts = (ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "docs").rglob("*.md"))
    mentioned = {word for path in texts for word in re.findall(r"\w+", path.read_text())}

    assert dead_definitions(sources, mentioned) == []


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_product_functions_fit_a_screen(path: Path) -> None:
    assert long_functions(path.read_text()) == []


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_product_files_are_one_idea_long(path: Path) -> None:
    assert long_file(path.read_text()) == []


@pytest.mark.parametrize("path", PRODUCT + TESTS, ids=ids(PRODUCT + TESTS))
def test_lines_are_not_too_long(path: Path) -> None:
    assert long_lines(path.read_text()) == []


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_what_is_public_says_what_it_is(path: Path) -> None:
    assert missing_docstrings(path.read_text()) == []


@pytest.mark.parametrize("path", LIBRARY, ids=ids(LIBRARY))
def test_public_functions_of_the_library_say_what_they_do(path: Path) -> None:
    assert undocumented_functions(path.read_text()) == []


@pytest.mark.parametrize("path", PRODUCT, ids=ids(PRODUCT))
def test_nothing_is_guarded_by_what_an_option_of_python_removes(path: Path) -> None:
    assert asserts_that_guard(path.read_text()) == []


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    found = {
        name_of(path): complaints
        for path in text_files()
        if (complaints := machine_paths(path.read_text(errors="replace")))
    }

    assert found == {}


def test_test_files_have_names_of_their_own() -> None:
    """Tests are no package, so two files of one name would be one module."""
    names = [path.name for path in TESTS if path.name != "conftest.py"]

    assert sorted(names) == sorted(set(names))


# -- each rule on a snippet that breaks it, and on one that does not -----------------------------------


@pytest.mark.parametrize(
    "snippet",
    [
        "import time",
        "import os, threading",
        "import time as clock",
        "from random import Random",
        "from threading import Lock as L",
        "import _thread",
        "def f():\n    import time",
        "if True:\n    from time import sleep",
        "try:\n    import time\nexcept ImportError:\n    pass",
        "__import__('time')",
        "import importlib\nimportlib.import_module('time')",
        "from . import time",
    ],
)
def test_a_second_door_is_noticed(snippet: str) -> None:
    assert imports_of(snippet, BEHIND_THE_DOOR)


@pytest.mark.parametrize(
    "snippet",
    [
        "import timeit",
        "from pagealloc.sync import Sync",
        "time = 1",
        "x.time.sleep(1)",
        "import_module(name)",
        "'import time'",
    ],
)
def test_what_only_looks_like_a_door_is_not_one(snippet: str) -> None:
    assert imports_of(snippet, BEHIND_THE_DOOR) == []


@pytest.mark.parametrize(
    "snippet",
    [
        "import stress",
        "import stress.run.conductor",
        "from stress.run.conductor import main",
        "from stress import run",
    ],
)
def test_an_import_from_above_is_noticed(snippet: str) -> None:
    assert imports_of(snippet, {"stress"})


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (long_functions, "def f():\n" + "    x = 1\n" * 69, "def f():\n" + "    x = 1\n" * 70),
        (
            long_functions,
            "class C:\n    def f(self):\n" + "        x = 1\n" * 69,
            "class C:\n    async def f(self):\n" + "        x = 1\n" * 70,
        ),
        (long_file, "x = 1\n" * 600, "x = 1\n" * 601),
        (long_lines, "#" * 120, "\n" + "#" * 121),
        (missing_docstrings, '"""Text."""', "x = 1"),
        (missing_docstrings, '"""Text."""\nclass C:\n    """Text."""', '"""Text."""\nclass C:\n    pass'),
        (undocumented_functions, "def _f():\n    pass", "def f():\n    pass"),
        (undocumented_functions, 'def f():\n    """Text."""', "async def f():\n    pass"),
        (asserts_that_guard, "assert a.b is not None, 'text'", "assert a is not b"),
        (asserts_that_guard, "assert isinstance(a, B)", "def f():\n    assert not work.running"),
        (machine_paths, "see tests/golden and network/share", f"see {MACHINE_PATHS[0]}main"),
        (machine_paths, "/proc/self/fd", f"cd {MACHINE_PATHS[2]}x"),
    ],
)
def test_a_rule_tells_good_from_bad(rule: Callable[[str], Complaints], good: str, bad: str) -> None:
    assert rule(good) == []
    assert rule(bad) != []


def test_a_circle_of_imports_is_noticed() -> None:
    straight = {"a": {"b", "c"}, "b": {"c"}, "c": set[str]()}

    assert import_cycles(straight) == []
    assert import_cycles({**straight, "c": {"a"}}) == ["a -> b -> c -> a"]
    assert import_cycles({"a": {"a"}}) == ["a -> a"]


@pytest.mark.parametrize(
    ("module", "imported", "complaints"),
    [
        ("stress.run.rig", {"stress.run.crew", "stress.errors", "stress.log.events", "pagealloc.zone"}, []),
        ("stress.run.rig", {"stress.search.kit"}, ["imports search"]),
        ("stress.errors", {"stress.cli"}, ["imports cli"]),
        ("stress.attic.boxes", set[str](), ["attic is no room: add it to ROOMS"]),
    ],
)
def test_an_arrow_that_does_not_go_down_is_noticed(
    module: str, imported: set[str], complaints: Complaints
) -> None:
    assert rooms_above(module, imported) == complaints


@pytest.mark.parametrize(
    ("preface", "complaints"),
    [
        ("What this is for.", []),
        ("Rooms:\n\n    world  coroutines\n    sync   locks", []),
        ("Rooms:\n\n    world  coroutines", ["lacks sync"]),
        ("world.py  coroutines\nsync.py   locks\nattic.py  boxes", ["lists attic, which is none"]),
        ("world  coroutines\nsync   locks\nworld  tasks", ["lists world twice"]),
    ],
)
def test_a_preface_that_has_fallen_behind_is_noticed(preface: str, complaints: Complaints) -> None:
    assert wrong_preface(preface, {"world", "sync"}) == complaints


def test_an_index_abroad_is_noticed() -> None:
    assert indices_abroad("zone.state[pfn - zone.base_pfn]")
    assert indices_abroad("zone.is_reported(pfn)") == []


def test_a_definition_that_nobody_uses_is_noticed() -> None:
    sources = {
        "a.py": "USED = 1\ndef helper(): pass\nclass Box:\n    def open(self): pass\n    def shut(self): pass",
        "b.py": "from a import USED, Box\nprint(USED)\nBox().open()",
    }

    assert dead_definitions(sources, set()) == ["a.py: nothing uses helper", "a.py: nothing uses shut"]
    assert dead_definitions(sources, {"helper", "shut"}) == []
