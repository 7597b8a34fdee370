"""Who may import whom: the half that knows no framework, the twins, conversion above them, and no task within a run."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The commands of each framework, and it as they see it; they import it when it is needed.
ENTRIES = ("framework.py", "pretrain.py", "finetune.py", "predict.py", "embed.py", "similarity.py", "attention.py")
# The C++ library and what computes by it alone: on ms_bert's side, but without MindSpore.
NATIVE = ("kernels/__init__.py", "kernels/operations.py", "kernels/native", "native_model.py")
# What is MindSpore's and what is PyTorch's; everything else imports neither.
MINDSPORE = (
    "model.py",
    "heads.py",
    "native_model.py",
    "kernels",
    "training",
    "device.py",
    "collectives.py",
    "pretrained.py",
    *ENTRIES,
)
FRAMEWORKS = {"mindspore", "torch"}
# Modules of conversion that compute: with a framework, or to export from one.
COMPUTE = ("agreement", "formats/mindir.py", "formats/mindir_cell.py")


def modules(folder: str, *, within: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[Path]:
    """Python files of a folder, those below the names of `within` only, or all but those below `without`."""

    def below(path: Path, names) -> bool:
        return any(path.relative_to(ROOT / folder).is_relative_to(name) for name in names)

    found = [path for path in sorted((ROOT / folder).rglob("*.py")) if not within or below(path, within)]
    return [path for path in found if not below(path, without)]


def imported(path: Path) -> set[str]:
    """Whole names of the modules that a file imports anywhere, in a function too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def importing(paths: list[Path], packages) -> list[str]:
    packages = tuple(packages)
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in paths
        for name in sorted(imported(path))
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]


FREE = modules("ms_bert", without=MINDSPORE)


def test_the_free_half_is_what_it_is_thought_to_be():
    assert {path.relative_to(ROOT / "ms_bert").parts[0] for path in FREE} == {
        *("__init__.py", "__main__.py", "config.py", "errors.py", "fields.py", "process.py", "randomness.py"),
        *("options.py", "finetuning_options.py", "prediction_options.py", "tiles.py", "tokenize.py"),
        *("data", "tasks", "run", "commands"),
    }


def test_neither_framework_is_imported_by_the_free_half():
    assert not importing(
        FREE, FRAMEWORKS | {"pt_reference", *(f"ms_bert.{name.removesuffix('.py')}" for name in MINDSPORE)}
    )


def test_the_library_is_used_without_a_framework():
    assert not importing(modules("ms_bert", within=NATIVE), FRAMEWORKS)


def test_each_twin_imports_its_own_framework_only():
    assert not importing(modules("ms_bert", within=MINDSPORE), {"torch", "pt_reference"})
    mindspore = {f"ms_bert.{name.removesuffix('.py')}" for name in MINDSPORE}
    assert not importing(modules("pt_reference"), {"mindspore", *mindspore})


def test_conversion_reads_and_writes_checkpoints_without_a_framework():
    writer = "conversion/formats/torch_bin.py imports torch"  # PyTorch alone writes its files
    assert importing(modules("conversion", without=COMPUTE), FRAMEWORKS) == [writer]


def test_only_entries_stand_on_conversion():
    entries = ("commands", "pretrained.py")
    assert not importing(modules("ms_bert", without=entries), {"conversion", "benchmarks"})
    assert not importing(modules("pt_reference", without=("pretrained.py",)), {"conversion", "benchmarks"})
    assert not importing(modules("conversion"), {"benchmarks", "ms_bert.commands", "ms_bert.pretrained", "tests"})
    assert not importing(modules("ms_bert", within=("data", "tasks")), {"ms_bert.run", "ms_bert.commands"})
    assert not importing(modules("ms_bert", within=("run",)), {"ms_bert.commands"})


@pytest.mark.parametrize("path", modules("ms_bert", within=("run",)), ids=lambda path: path.name)
def test_a_run_knows_no_task(path):
    assert not re.search(r"mlm|masked|next.sentence|nsp|BertFor", path.read_text(), re.IGNORECASE)
    assert not {name for name in imported(path) if name.startswith("ms_bert.tasks.") and "pretraining" in name}
