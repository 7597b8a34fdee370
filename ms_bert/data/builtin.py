"""The built-in corpus: reference documentation that every installation has, gathered from its source files.

Documents are the topics of the Python language reference (`pydoc_data.topics`) and the docstrings of the standard
library and of those of LIBRARIES that are installed, read with `ast`: nothing is imported or run. The text depends on
nothing but the versions of Python and of these libraries.
"""

import ast
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ("numpy", "scipy", "pandas", "matplotlib", "mindspore")
_SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "idlelib", "lib2to3", "_vendor", "config"}
_SHORTEST = 200  # characters of prose under which a docstring is no document

# What is not prose: doctests, directives, fields, tables, rules and code.
_NOT_PROSE = re.compile(r"""\s*( >>> | \.\.\.?\s | \.\. | :\w+[^:]*: | [-=~^+|*#"']{3,} | @ | \$ | \d+\s*$ )""", re.X)


def versions() -> dict[str, str]:
    """What the text depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # MindSpore, where only the PyTorch twin is used
            continue
    return found


def documents() -> Iterator[list[str]]:
    """Each document as a list of paragraphs, in a fixed order, none twice."""
    seen = set()
    for text in _texts():
        paragraphs = prose(text)
        key = "\n".join(paragraphs)
        if len(key) >= _SHORTEST and key not in seen:
            seen.add(key)
            yield paragraphs


def prose(text: str) -> list[str]:
    """The paragraphs of a docstring that are running text, each as one line without its mark-up."""
    paragraphs = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.splitlines() if not _NOT_PROSE.match(line)]
        line = re.sub(r":[a-z:]+:`~?([^`<]*)[^`]*`|[`*]+|\|(?=\w)|(?<=\w)\|", r"\1", " ".join(lines)).strip()
        words = re.findall(r"[A-Za-z]{2,}", line)
        if len(words) >= 5 and sum(map(len, words)) > 0.6 * len(line):
            paragraphs.append(re.sub(r"\s+", " ", line))
    return paragraphs


def _texts() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]
    yield from _docstrings(Path(sysconfig.get_paths()["stdlib"]))
    _, *libraries = versions()
    for library in libraries:
        found = importlib.util.find_spec(library)
        if found is not None and found.origin is not None:
            yield from _docstrings(Path(found.origin).parent)


def _docstrings(root: Path) -> Iterator[str]:
    """The docstrings under a folder: of modules, classes (with those of their methods) and functions."""
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some libraries' escapes are deprecated: their business
                module = ast.parse(path.read_bytes())
        except SyntaxError:  # templates and deliberately broken files of some libraries
            continue
        yield ast.get_docstring(module) or ""
        for node in module.body:
            if isinstance(node, ast.ClassDef):
                members = [ast.get_docstring(m) for m in node.body if isinstance(m, ast.FunctionDef)]
                yield "\n\n".join(filter(None, (ast.get_docstring(node), *members)))
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield ast.get_docstring(node) or ""
