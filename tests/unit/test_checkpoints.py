"""The checkpoints of a run are whole or passed over."""

import json

import numpy as np
import pytest

from ms_bert.run import checkpoints

SHAPES = {"bert.embeddings.word_embeddings.weight": (5, 2), "cls.predictions.bias": (5,)}


def arrays(**changes):
    own = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    return {name: value for name, value in {**own, **changes}.items() if value is not None}


SCALARS = {"updates": 5, "loss_scale": 1.0, "good_steps": 0}


@pytest.fixture
def saved(tmp_path):
    """A run folder with the checkpoints of steps 3 and 5."""
    for step in (3, 5):
        state = checkpoints.TrainingState(step, arrays(), {}, SCALARS, {"window": {}}, {"bytes": 0, "sha256": ""})
        checkpoints.save(tmp_path, state)
    return tmp_path


def newest(folder):
    """The step of the newest checkpoint, and what is said of those passed over."""
    said = []
    state = checkpoints.load_newest(folder, said.append)
    return state and state.step, said


def rehash(folder, number, **changes):
    """Change the state.json of a checkpoint, and its hash with it; None: without this field."""
    path = checkpoints.folder_of(folder, number)
    state = json.loads((path / checkpoints.STATE).read_text())
    state = {name: value for name, value in {**state, **changes}.items() if value is not None}
    files = {name: digest for name, digest in state["sha256"].items() if name != checkpoints.STATE}
    state["sha256"] = {**files, checkpoints.STATE: checkpoints._own_hash({**state, "sha256": files})}
    (path / checkpoints.STATE).write_text(json.dumps(state))


def test_a_state_that_is_hashed_again_and_sound_is_taken(saved):
    rehash(saved, 5, scalars={**SCALARS, "loss_scale": 65536})
    assert newest(saved) == (5, [])
    assert checkpoints.load_newest(saved, None).scalars["loss_scale"] == 65536


@pytest.mark.parametrize(
    "changes",
    [
        *({"step": value} for value in (None, -5, 4, 10**30, 2**31, "5", 5.0, True, [5], float("nan"))),
        *({"scalars": value} for value in (None, [], {}, {"updates": 5})),
        *({"scalars": {**SCALARS, "updates": value}} for value in (-1, "5", 2**31, 0.5)),
        *({"scalars": {**SCALARS, "good_steps": value}} for value in (-1, float("inf"))),
        *({"scalars": {**SCALARS, "loss_scale": value}} for value in (0, -1, 10**400, float("nan"), float("inf"), "1")),
        *({"position": value} for value in (None, [], "window")),
        *({"metrics": value} for value in ([], "x", {"bytes": "1", "sha256": ""})),
    ],
)
def test_a_state_that_no_run_can_have_written_is_passed_over(saved, changes):
    rehash(saved, 5, **changes)
    step, said = newest(saved)
    assert step == 3 and len(said) == 1 and "step-00000005 is damaged (state.json is" in said[0] and len(said[0]) < 400


@pytest.mark.parametrize("dtype, size", [("BF16", 2), ("F8_E4M3", 1), ("C64", 8)])
def test_tensors_of_a_type_that_no_run_writes_are_passed_over(saved, dtype, size):
    header = json.dumps({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    path = checkpoints.folder_of(saved, 5)
    (path / checkpoints.OPTIMIZER).write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    checkpoints.write_state(path, 5, SCALARS, {"window": {}})
    state = checkpoints.load_newest(saved, lambda sentence: None)
    if state.step == 5:  # NumPy has the type by now, and the model it is to fit has another
        assert "w" in checkpoints.misfit(state, {name: array.shape for name, array in arrays().items()}, "float32")
    else:
        assert state.step == 3


def test_a_name_that_only_looks_like_a_checkpoint_is_none(saved):
    for name in ("step-5", "step-\N{SUPERSCRIPT TWO}", "step-x", "step-"):
        (saved / checkpoints.FOLDER / name).mkdir()
    assert checkpoints.steps(saved) == [3, 5]


def test_a_checkpoint_is_not_saved_where_its_folder_was_removed(saved):
    state = checkpoints.load_newest(saved, None)
    with pytest.raises(FileNotFoundError):
        checkpoints.save(saved / "gone", state)
    assert not (saved / "gone").exists()
