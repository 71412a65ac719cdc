"""The tree as the tests of the house read it: files, imports, lines of code; and what packages need in turn."""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER
}  # fmt: skip


def files(*tops: str) -> list[Path]:
    """List the Python files under some folders of the project, sorted."""
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py"))


def name(path: Path) -> str:
    """Name a file as a test's report shows it."""
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def taken(node: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Yield what an import statement takes: modules, and names from modules, as (module, name or None)."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from ((node.module, alias.name) for alias in node.names)


def packages(path: Path, nodes: Iterator[ast.AST] | None = None) -> set[str]:
    """Name the packages that a file imports, wherever in it, or in some of its nodes."""
    return {module.split(".")[0] for node in nodes or ast.walk(tree(path)) for module, _ in taken(node)}


def file_of(module: str) -> Path | None:
    """Find the file of a module of the project."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


@cache
def neighbours(path: Path) -> frozenset[Path]:
    """Find the files of the project that a file takes something from, wherever in it."""
    found = set()
    for node in ast.walk(tree(path)):
        for module, what in taken(node):
            found.add(file_of(f"{module}.{what}") or file_of(module) if what else file_of(module))
    return frozenset(found - {None, path})


@cache
def code(path: Path) -> frozenset[int]:
    """Number the lines that hold code: no docstring, no comment, and not blank."""
    lines, docs = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type not in NO_CODE:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            docs |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return frozenset(lines - docs)


def size(path: Path, node: ast.AST | None = None) -> int:
    """Count the lines of code of a file, or of a function in it."""
    return len(code(path) if node is None else code(path) & {*range(node.lineno, node.end_lineno + 1)})


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield the functions of a file and the methods of its classes by dotted name; none from inside another."""

    def inside(body: list[ast.stmt], above: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{above}{node.name}", node
            elif isinstance(node, ast.ClassDef):
                yield from inside(node.body, f"{above}{node.name}.")
            elif isinstance(node, ast.If | ast.Try):
                yield from inside([*node.body, *node.orelse], above)

    yield from inside(tree(path).body, "")


def needed(lines: list[str]) -> set[str]:
    """Name the distributions that some requirements bring, with what those need in turn."""
    found, left = set(), [Requirement(line) for line in lines]
    while left:
        need = left.pop()
        if need.marker and not any(need.marker.evaluate({"extra": extra}) for extra in ("", *need.extras)):
            continue
        for extra in ("", *need.extras):
            key = (canonicalize_name(need.name), extra)
            if key not in found:
                found.add(key)
                try:
                    lines = requires(need.name) or []
                except PackageNotFoundError:  # of another platform
                    lines = []
                more = map(Requirement, lines)
                left += [r for r in more if not r.marker or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}
