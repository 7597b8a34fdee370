"""The twins read alike: with the frameworks' names made one, their sources are the same, function by function."""

import ast
import difflib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What the twins write otherwise, and what then stands in both: patterns of a source as ast.unparse writes it.
NAMES = (
    (r"\bpt_reference\b", "ms_bert"),
    (r"\bnn\.Module(s|List|)\b", r"nn.Cell\1"),
    (r"\bmodules\b", "cells"),
    (r"\bdef forward\b", "def construct"),
    (r"\btorch\.", "ops."),
    (r"\(auto_prefix=False\)", "()"),  # MindSpore alone renames the parameters of what a cell holds
    (r"\.detach\(\)", ""),  # MindSpore differentiates nothing that is not asked for
    (r"\.to\(losses\.dtype\)", ""),  # PyTorch alone has float64
)

# What may differ, and why. What is not the same and does not stand here fails, and so does what stands here and is.
RECOMPUTED = "each recomputes by its own means"
TENSORS = "tensors are made and indexed by other functions"
OWN_UPDATE = "MindSpore compiles a step with its update, where PyTorch's optimizer is called after the gradients"
ALLOWED = {
    "model.py": {
        "Numerics": "device and kernels are MindSpore's, probabilities and float64 are PyTorch's",
        "Numerics.__init__": "as its docstring says",
        "_parameter": TENSORS,
        "BertEncoder.__init__": RECOMPUTED,
        "BertEncoder.construct": RECOMPUTED,
        "BertModel": "what intermediates cost is the frameworks' business",
        "filled_in": TENSORS,
        "together": TENSORS,
        "parted": TENSORS,
        "gather_positions": TENSORS,
        "initialize": TENSORS,
    },
    "heads.py": {},
    "training/losses.py": {
        **dict.fromkeys(("among_own", "token_losses", "ChoiceLoss.losses"), TENSORS),
        "divergence": "MindSpore's own log-softmax is rough on the CPU",
    },
    "training/step.py": {
        "(module)": OWN_UPDATE,
        **dict.fromkeys(("Update", "Update.__init__", "Update.construct", "Update.__call__"), OWN_UPDATE),
        **dict.fromkeys(("Update._adapt", "Update._norm", "Update.clear", "norm_by_few_kernels"), OWN_UPDATE),
        **dict.fromkeys(("Carry", "Carry.__init__", "Carry.construct", "carried", "cleared"), OWN_UPDATE),
        **dict.fromkeys(("Update.carry", "Update._hold"), OWN_UPDATE),
        **dict.fromkeys(("TrainStep", "TrainStep.__init__", "TrainStep.construct"), OWN_UPDATE),
        **dict.fromkeys(("AccumulateStep", "AccumulateStep.__init__", "AccumulateStep.construct"), OWN_UPDATE),
        **dict.fromkeys(("UpdateFromBuffers", "UpdateFromBuffers.__init__", "UpdateFromBuffers.construct"), OWN_UPDATE),
    },
}


class _Reshaped(ast.NodeTransformer):
    """x.flatten() and x.view(...) as ops.reshape(x, ...)."""

    def visit_Call(self, node):
        self.generic_visit(node)
        method = getattr(node.func, "attr", None)
        if method == "view" or (method == "flatten" and not node.args):
            shape = ast.Tuple(node.args or [ast.Constant(-1)], ast.Load())
            if len(node.args) == 1 and isinstance(node.args[0], ast.Tuple):
                shape = node.args[0]
            return ast.Call(ast.parse("ops.reshape", mode="eval").body, [node.func.value, shape], [])
        return node


def functions(source: str) -> dict[str, str]:
    """The sources of a file by name, docstrings included and comments not: (module) is its docstring, a class is what
    it has besides its methods, and methods are CLASS.METHOD."""
    tree = _Reshaped().visit(ast.parse(source))
    found: dict[str, str] = {"(module)": ast.get_docstring(tree)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [inner for inner in node.body if isinstance(inner, ast.FunctionDef)]
            node.body = [inner for inner in node.body if inner not in methods] or [ast.Pass()]
            found[node.name] = ast.unparse(node)
            for method in methods:  # a property and its setter have one name
                name = f"{node.name}.{method.name}"
                found[name] = found.get(name, "") + ast.unparse(method)
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = ast.unparse(node)
        elif isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = ast.unparse(node)
    named = {}
    for name, text in found.items():
        for pattern, instead in NAMES:
            text = re.sub(pattern, instead, text)
        named[name.replace(".forward", ".construct")] = text
    return named


def differences(ours: str, theirs: str) -> dict[str, str]:
    """By name, how two sources differ."""
    one, other = functions(ours), functions(theirs)
    return {
        name: "\n".join(difflib.unified_diff(*(side.get(name, "").splitlines() for side in (one, other)), lineterm=""))
        for name in {**one, **other}
        if one.get(name) != other.get(name)
    }


def sources(file: str) -> tuple[str, str]:
    return tuple((ROOT / package / file).read_text() for package in ("ms_bert", "pt_reference"))


@pytest.mark.parametrize("file", ALLOWED)
def test_the_twins_differ_only_where_the_frameworks_do(file):
    found = differences(*sources(file))
    unknown = {name: how for name, how in found.items() if name not in ALLOWED[file]}
    assert not unknown, "\n".join(f"{name}:\n{how}" for name, how in unknown.items())
    assert ALLOWED[file].keys() <= found.keys(), "what is the same needs no leave to differ"


@pytest.mark.parametrize("file", ALLOWED)
def test_the_twins_say_things_in_the_same_order(file):
    one, other = map(functions, sources(file))
    assert [name for name in one if name in other] == [name for name in other if name in one]


@pytest.mark.parametrize(
    "right, wrong, where",
    [
        ("dropout_keys, masked_positions", "dropout_keys, cls_positions", "BertWithMaskedHead.construct"),
        ("The stack of layers", "Some layers", "BertEncoder"),
        ("first_column + config.hidden_size", "first_column", "BertSelfOutput.__init__"),
        ("def in_force(rate, ", "def in_force(share, ", "in_force"),
    ],
)
def test_another_line_in_one_twin_is_seen(right, wrong, where):
    ours, theirs = sources("model.py")
    assert right in theirs
    before, after = differences(ours, theirs), differences(ours, theirs.replace(right, wrong, 1))
    assert after[where] != before.get(where)
    assert {name for name in after if after[name] != before.get(name)} == {where}


def test_the_twins_operations_have_the_same_fields():
    def fields(path):
        classes = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.ClassDef)]
        (operations,) = [node for node in classes if node.name == "Operations"]
        return [node.target.id for node in operations.body if isinstance(node, ast.AnnAssign)]

    # torch.optim updates, and nobody asks which of several sets it computes with.
    own = {"name", "adam_update", "lamb_moments", "lamb_update", "own_dropout", "instead"}
    ours, theirs = fields("ms_bert/kernels/operations.py"), fields("pt_reference/kernels.py")
    assert [name for name in ours if name not in own] == theirs and own < set(ours)
