"""Conversions: every byte arrives, nothing is guessed, and nothing is left half-written."""

import json
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from conversion import checkpoint, configs, report, writing
from conversion.__main__ import main
from conversion.convert import Settings, convert
from conversion.families import FAMILIES
from conversion.formats import mindspore_ckpt, safetensors_file, torch_bin
from conversion.names import Spelling
from conversion.parameters import ARCHITECTURES, MODULES
from conversion.targets import TARGETS, target_of
from conversion.tensors import Tensor, same_bytes
from ms_bert.config import BertConfig
from ms_bert.errors import UserError
from tests import runs

from .bert import CONFIG, random_array, random_weights, tensors, write_folder

LOSSLESS = [
    ("hugging-face", ""),
    ("safetensors", ".safetensors"),
    ("hugging-face-old", ".safetensors"),
    *(
        (kind, ending)
        for kind in TARGETS
        if kind.startswith(("mind", "ms_")) and kind != "mindir"
        for ending in (".ckpt", ".safetensors")
    ),
    ("tensorflow", ""),
    ("nvidia", ".pt"),
    ("nvidia", ".safetensors"),
    ("uer", ".bin"),
    ("uer-old", ".bin"),
]


def path_for(folder: Path, ending: str) -> Path:
    return folder / "place" / f"model{ending}"


def there_and_back(source: Path, folder: Path, kind: str, ending: str) -> Path:
    target = path_for(folder, ending)
    convert(checkpoint.read(source), target, kind)
    back = folder / "back"
    convert(checkpoint.read(target), back)
    return back


def arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in safetensors_file.read(path / "model.safetensors").items()}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind, ending", LOSSLESS)
def test_a_round_trip_keeps_every_byte(kind, ending, dtype, tmp_path):
    source = write_folder(tmp_path / "source", random_weights(dtype=dtype))
    back = there_and_back(source, tmp_path, kind, ending)
    before, after = arrays(source), arrays(back)
    assert before.keys() == after.keys() and len(before) == 46 and all(same_bytes(before[n], after[n]) for n in before)
    assert BertConfig.from_json(back) == CONFIG if kind != "tensorflow" else True
    assert (back / "vocab.txt").read_text() == "[PAD]\n[UNK]\n"
    assert not list(tmp_path.rglob("*.writing*"))


EACH_FAMILY = [("mindspore", ".ckpt"), ("mindspore-models", ".ckpt"), ("tensorflow", ""), ("nvidia", ".bin")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind, ending", [*EACH_FAMILY, ("uer", ".bin"), ("uer-old", ".bin")])
def test_every_architecture_round_trips(architecture, kind, ending, tmp_path):
    config = CONFIG.replace(id2label={"0": "LABEL_0"}) if architecture == "BertForMultipleChoice" else CONFIG
    weights = random_weights(config, architecture)
    if architecture == "BertModel":
        weights = {name.removeprefix("bert."): value for name, value in weights.items()}
    source = write_folder(tmp_path / "source", weights, config, architecture)
    target = path_for(tmp_path, ending)
    if architecture == "BertForMultipleChoice" and kind.startswith("uer"):
        with pytest.raises(UserError, match="have no place for classifier.weight"):  # nor a pooler for it
            convert(checkpoint.read(source), target, kind)
        return
    convert(checkpoint.read(source), target, kind)
    # TensorFlow has no place for the class, and a choice of one is a label of one.
    named = architecture if architecture == "BertForMultipleChoice" else None
    convert(checkpoint.read(target, architecture=named), tmp_path / "back")
    before, after = arrays(source), arrays(tmp_path / "back")
    assert before.keys() == after.keys() and all(same_bytes(before[n], after[n]) for n in before)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [architecture]


def test_transformers_loads_what_a_conversion_writes(tmp_path):
    transformers = pytest.importorskip("transformers")
    source = write_folder(tmp_path / "source", random_weights(special=False))
    for number, (kind, ending) in enumerate((("mindspore-models", ".ckpt"), ("tensorflow", ""))):
        back = there_and_back(source, tmp_path / str(number), kind, ending)
        model, told = transformers.BertForPreTraining.from_pretrained(back, output_loading_info=True)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert all(np.array_equal(p.detach().numpy(), arrays(source)[n]) for n, p in model.named_parameters())


def test_shards_are_written_and_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    source = write_folder(tmp_path / "source", random_weights(special=False))
    convert(checkpoint.read(source), tmp_path / "shards", settings=Settings(shard_size=3000))
    files = sorted(path.name for path in (tmp_path / "shards").glob("model-*"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert report.same(report.diff(checkpoint.read(source), checkpoint.read(tmp_path / "shards")))
    model = transformers.BertForPreTraining.from_pretrained(tmp_path / "shards")
    assert all(np.array_equal(p.detach().numpy(), arrays(source)[n]) for n, p in model.named_parameters())
    (tmp_path / "shards" / files[1]).unlink()
    with pytest.raises(UserError, match="no such file beside it"):
        checkpoint.read(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(files[1], "../source/model.safetensors"))
    with pytest.raises(UserError, match="no such file beside it"):
        checkpoint.read(tmp_path / "shards")


def test_shards_of_pickles_are_read(tmp_path):
    """As transformers wrote large models before it had safetensors."""
    torch = pytest.importorskip("torch")
    source = write_folder(tmp_path / "source", random_weights(special=False))
    folder, weights = tmp_path / "shards", arrays(source)
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    files = {name: f"pytorch_model-{1 + number % 2:05d}-of-00002.bin" for number, name in enumerate(weights)}
    for file in {*files.values()}:
        state = {name: torch.from_numpy(value.copy()) for name, value in weights.items() if files[name] == file}
        torch.save(state, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    assert report.same(report.diff(checkpoint.read(source), checkpoint.read(folder)))
    (folder / file).unlink()
    with pytest.raises(UserError, match="no such file beside it"):
        checkpoint.read(folder)


@pytest.mark.parametrize("legacy", [False, True])
def test_old_pytorch_files_come_in_whole(legacy, tmp_path):
    """LayerNorm.gamma, stored position_ids, a tied decoder, matrices that are views, in both forms of pickle."""
    torch = pytest.importorskip("torch")
    weights = random_weights()
    source = write_folder(tmp_path / "source", weights)
    old = Spelling("hugging-face-old", ("bert.", ""))
    state = {own: torch.from_numpy(weights[name].copy()) for name, own in old.names(2).items() if name in weights}
    for name, value in state.items():
        if value.dim() == 2:
            state[name] = value.T.contiguous().T  # the right values, in the other order of memory
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    state["bert.embeddings.position_ids"] = torch.arange(17).expand(1, -1)
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "config.json").write_text((source / "config.json").read_text())
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    convert(checkpoint.read(folder), tmp_path / "back")
    assert all(same_bytes(value, weights[name]) for name, value in arrays(tmp_path / "back").items())
    assert len(checkpoint.read(folder).left_out) == 2


def test_mindspore_loads_a_checkpoint_by_its_own_names(tmp_path):
    """Into ms_bert's cells by default, and where asked into cells of mindspore.nn: nothing is left on either side."""
    mindspore = pytest.importorskip("mindspore")
    from ms_bert.model import BertForPreTraining, Numerics

    source = checkpoint.read(write_folder(tmp_path / "source", random_weights(special=False)))
    convert(source, tmp_path / "a" / "model.ckpt")
    model = BertForPreTraining(CONFIG, Numerics())
    left = mindspore.load_param_into_net(model, mindspore.load_checkpoint(str(tmp_path / "a" / "model.ckpt")))
    assert left == ([], [])
    assert all(np.array_equal(p.asnumpy(), source.weights[p.name].read()) for p in model.get_parameters())

    convert(source, tmp_path / "b" / "model.ckpt", "mindspore")
    plain = bert_of_mindspore_nn()
    left = mindspore.load_param_into_net(plain, mindspore.load_checkpoint(str(tmp_path / "b" / "model.ckpt")))
    assert left == ([], [])
    found = {p.name: p.asnumpy() for p in plain.get_parameters()}
    assert len(found) == len(source.weights)
    assert np.array_equal(
        found["bert.embeddings.word_embeddings.embedding_table"],
        source.weights["bert.embeddings.word_embeddings.weight"].read(),
    )
    assert np.array_equal(
        found["bert.embeddings.LayerNorm.beta"], source.weights["bert.embeddings.LayerNorm.bias"].read()
    )


def bert_of_mindspore_nn():
    """The parameters of a BERT that somebody built of mindspore.nn's cells, in Hugging Face's structure."""
    from mindspore import Parameter, nn, ops

    sizes = {"V": 61, "P": 17, "T": 3, "H": 12, "I": 20, "two": 2}
    make = {
        "embedding": lambda rows, width: nn.Embedding(rows, width),
        "norm": lambda width: nn.LayerNorm((width,)),
        "linear": lambda outputs, inputs: nn.Dense(inputs, outputs),
        "projection": lambda outputs, inputs: nn.Dense(inputs, outputs),
    }
    top = nn.Cell()

    def cell_at(path: list[str]) -> nn.Cell:
        inner = top
        for name in path:
            if not hasattr(inner, name):
                setattr(inner, name, nn.Cell())
            inner = getattr(inner, name)
        return inner

    for name, module in MODULES.items():
        if module.part in ("classifier", "qa"):
            continue
        for i in range(2 if "{i}" in name else 1):
            *path, last = name.format(i=i).split(".")
            if module.kind == "bias":
                cell_at([*path, last]).bias = Parameter(ops.zeros(61))
            else:
                setattr(cell_at(path), last, make[module.kind](*(sizes[size] for size in module.shape)))
    top.update_parameters_name()
    return top


# The optimizer's state


def training_checkpoint(folder: Path, **scalars) -> Path:
    """A folder with a checkpoint of a run: weights, moments, scalars."""
    from ms_bert.run.checkpoints import TrainingState, save

    weights = random_weights(special=False)
    write_folder(folder, weights)
    rng = np.random.default_rng(8)
    moments = {f"{k}.{name}": rng.random(value.shape, np.float32) for k in "mv" for name, value in weights.items()}
    scalars = {"updates": 70, "loss_scale": 1.0, "good_steps": 0, **scalars}
    (folder / "checkpoints").mkdir()
    save(folder, TrainingState(70, weights, moments, scalars, {"window": {}}))
    return folder


@pytest.mark.parametrize("scalars", [{}, {"updates": 66, "loss_scale": 2048.0, "good_steps": 5}])
@pytest.mark.parametrize(
    "kind, ending",
    [
        ("ms_bert", ".ckpt"),
        ("mindspore", ".ckpt"),
        ("mindspore-models", ".safetensors"),
        ("mindnlp", ".ckpt"),
        ("tensorflow", ""),
    ],
)
def test_the_optimizers_state_travels(kind, ending, scalars, tmp_path):
    source = training_checkpoint(tmp_path / "source", **scalars)
    back = there_and_back(source, tmp_path, kind, ending)
    a, b = checkpoint.read(source), checkpoint.read(back)
    assert len(a.moments) == 2 * len(a.weights) and a.scalars == b.scalars and b.scalars["step"] == 70
    told = report.diff(a, b)
    assert [entry["name"] for entry in told.pop("config")] == (["id2label"] if kind == "tensorflow" else [])
    assert report.same({**told, "config": []}) and told["equal"] == 138


@pytest.mark.slow
def test_a_run_goes_on_after_its_checkpoint_went_through_other_formats(options, undisturbed, tmp_path):
    """Twelve steps at once, and twelve with a journey over MindSpore's and TensorFlow's formats after the sixth."""
    begun = tmp_path / "begun"
    assert runs.run(*options, "--steps", 6, "--decay-steps", 12, "--output", begun).returncode == 0
    convert(checkpoint.read(begun), tmp_path / "m" / "run.ckpt")
    convert(checkpoint.read(tmp_path / "m" / "run.ckpt"), tmp_path / "t" / "run", "tensorflow")
    convert(checkpoint.read(tmp_path / "t" / "run"), tmp_path / "gone-on")
    result = runs.run("--resume", tmp_path / "gone-on", "--steps", 12)
    assert result.returncode == 0 and "step 6 of 12" in result.stdout, result.stderr
    assert report.same(report.diff(checkpoint.read(tmp_path / "gone-on"), checkpoint.read(undisturbed)))


def test_a_ckpt_that_mindspore_cannot_read_is_said(tmp_path, monkeypatch):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    monkeypatch.setattr(mindspore_ckpt, "_PROTOBUF_LIMIT", 1000)
    assert any("over 2 GiB" in note for note in convert(source, tmp_path / "m" / "a.ckpt").notes)
    assert not convert(source, tmp_path / "s" / "a.safetensors", "mindspore").notes


@pytest.mark.parametrize("kind, words", [("tensorflow", "tanh form"), ("mindspore-models", "layer_norm_eps 1e-7")])
def test_numbers_that_the_other_sides_code_has_fixed_are_said_both_ways(kind, words, tmp_path):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    target = tmp_path / "m" / ("a.ckpt" if kind != "tensorflow" else "a")
    assert any(words in note for note in convert(source, target, kind).notes)
    assert any(words in note for note in convert(checkpoint.read(target), tmp_path / "back").notes)


def test_checkpoints_of_one_run_may_lie_side_by_side(tmp_path):
    run = training_checkpoint(tmp_path / "run")
    (run / "run.json").write_text('{"options": {}}')
    place = tmp_path / "place"
    convert(checkpoint.read(run), place / "base.ckpt")
    convert(checkpoint.read(place / "base.ckpt"), place / "base.onnx")
    convert(checkpoint.read(place / "base.ckpt"), place / "bert_model.ckpt", "tensorflow")
    assert {"base.ckpt", "base.onnx", "bert_model.ckpt.index", "run.json"} <= {path.name for path in place.iterdir()}
    assert checkpoint.read(place / "bert_model.ckpt").scalars["step"] == 70


def test_what_a_format_has_no_place_for_is_said(tmp_path):
    source = checkpoint.read(training_checkpoint(tmp_path / "source"))
    for target in ("model.safetensors", "model.onnx"):
        result = convert(source, tmp_path / target.split(".")[1] / target)
        assert any("left out the optimizer's state" in note for note in result.notes)
        assert source.moments
    assert "left out id2label from the config" in " ".join(convert(source, tmp_path / "t" / "m", "tensorflow").notes)


def test_a_damaged_checkpoint_of_a_run_is_refused(tmp_path):
    folder = training_checkpoint(tmp_path / "source")
    file = folder / "checkpoints" / "step-00000070" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="optimizer.safetensors does not match its checksum"):
        checkpoint.read(folder)


def test_a_runs_folder_whose_weights_were_exchanged_is_not_taken_for_its_checkpoint(tmp_path):
    folder = training_checkpoint(tmp_path / "source")
    other = {name: value + 1 for name, value in random_weights(special=False).items()}
    (folder / "model.safetensors").unlink()
    safetensors_file.write(folder / "model.safetensors", tensors(other), {"format": "pt"})
    with pytest.raises(UserError, match="is not the model of"):
        checkpoint.read(folder)
    found = checkpoint.read(folder / "model.safetensors")
    assert all(same_bytes(tensor, Tensor.of(other[name])) for name, tensor in found.weights.items())
    assert checkpoint.read(folder / "checkpoints" / "step-00000070").config == CONFIG


def in_a_ckpt(folder: Path, change) -> Path:
    """A MindSpore checkpoint with an optimizer's state, its tensors changed."""
    convert(checkpoint.read(training_checkpoint(folder / "run")), folder / "m" / "a.ckpt")
    named = mindspore_ckpt.read(folder / "m" / "a.ckpt")
    values = {name: tensor.read() for name, tensor in named.items()}
    change(values)
    (folder / "m" / "a.ckpt").unlink()
    mindspore_ckpt.write(folder / "m" / "a.ckpt", tensors(values))
    return folder / "m" / "a.ckpt"


@pytest.mark.parametrize("step", [np.float32(12.5), np.float32(np.nan), np.int64(2**40), np.int32(-3)])
def test_a_step_that_is_no_count_is_refused(step, tmp_path):
    path = in_a_ckpt(tmp_path, lambda values: values.update(global_step=np.array([step])))
    with pytest.raises(UserError, match="wrong      global_step"):
        checkpoint.read(path)


def test_moments_that_do_not_fit_the_weights_are_told(tmp_path):
    def without(*names):
        return lambda values: [values.pop(name) for name in names]

    prefix = "m.cls.seq_relationship."
    for number, (change, words) in enumerate(
        (
            (without("global_step"), "missing    global_step"),
            (without(prefix + "weight", prefix + "bias"), "2 faults"),
            (
                without("cls.seq_relationship.weight", "cls.seq_relationship.bias"),
                "moment of a weight that is missing",
            ),
            (
                lambda values: values.update({"moment1.cls.predictions.bias": np.zeros(61, np.float32)}),
                "another tensor is the same moment",
            ),
        )
    ):
        path = in_a_ckpt(tmp_path / str(number), change)
        with pytest.raises(UserError, match=words):
            checkpoint.read(path, allow_missing=["nsp"])
    half = in_a_ckpt(tmp_path / "half", without(prefix + "weight", prefix + "bias"))
    read = checkpoint.read(half, drop=["optimizer"])
    assert not read.moments and ("the optimizer's state", "dropped as asked") in read.left_out
    convert(read, tmp_path / "folder")


def test_a_task_goes_along_and_what_a_run_needs_goes_with_the_run(tmp_path):
    """Without task.json a model of mean pooling is one of tags, and one of answers has no threshold."""
    source = checkpoint.read(training_checkpoint(tmp_path / "run"))
    for name in ("run.json", "task.json", "teacher.safetensors", "guesses.safetensors"):
        (tmp_path / "run" / name).write_text(f'{{"of": "{name}"}}')
    convert(source, tmp_path / "whole")
    convert(source, tmp_path / "weights", settings=Settings(dtype="bfloat16"))
    convert(source, tmp_path / "file" / "model.ckpt")
    for folder in ("whole", "weights", "file"):
        assert (tmp_path / folder / "task.json").read_text() == '{"of": "task.json"}'
    for name in ("run.json", "teacher.safetensors", "guesses.safetensors"):
        assert (tmp_path / "whole" / name).exists() and not (tmp_path / "weights" / name).exists()
    convert(source, tmp_path / "weights", settings=Settings(dtype="bfloat16", overwrite=True))
    assert (tmp_path / "weights" / "task.json").exists()


def sentence_transformers_folder(folder: Path) -> Path:
    """As version 5 saves it: the BERT in the folder itself, what follows it in folders of their own."""
    write_folder(folder, random_weights())
    modules = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense", "3_Normalize": "Normalize"}
    listing = [
        {"idx": i, "path": path, "type": f"sentence_transformers.{m}"} for i, (path, m) in enumerate(modules.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listing))
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    return folder


def test_what_sentence_transformers_adds_to_a_bert_goes_along_into_a_folder(tmp_path):
    """Else a vector of the copy would be another one, and nothing would say so."""
    source = sentence_transformers_folder(tmp_path / "source")
    added = (
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
    )
    for overwrite in (False, True):
        result = convert(checkpoint.read(source), tmp_path / "copy", settings=Settings(overwrite=overwrite))
        assert all((tmp_path / "copy" / name).read_bytes() == (source / name).read_bytes() for name in added)
        assert not (tmp_path / "copy" / "3_Normalize").exists() and not any("modules" in note for note in result.notes)
    (tmp_path / "copy" / "4_Own").mkdir()
    with pytest.raises(UserError, match="holds 4_Own, which a conversion would not write again"):
        convert(checkpoint.read(source), tmp_path / "copy", settings=Settings(overwrite=True))
    (note,) = (
        note for note in convert(checkpoint.read(source), tmp_path / "one" / "model.ckpt").notes if "left" in note
    )
    assert "left out 'modules.json', 'config_sentence_transformers.json', '1_Pooling', '2_Dense'" in note


@pytest.mark.parametrize("listing", ["[", "{}", '[{"path": "../other"}]', '[{"path": ""}, {"path": "../../etc"}]'])
def test_nothing_goes_along_from_outside_of_a_folder(listing, tmp_path):
    source = sentence_transformers_folder(tmp_path / "source")
    (source / "modules.json").write_text(listing)
    convert(checkpoint.read(source), tmp_path / "copy")
    there = {path.name for path in tmp_path.rglob("*") if source not in path.parents}
    added = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
    assert there <= {"source", "copy", "config.json", "model.safetensors", "vocab.txt", *added}
    assert (tmp_path / "copy" / "modules.json").exists() == (listing.startswith('[{"path": ""}'))


def test_an_optimizers_state_stays_with_the_weights_it_belongs_to(tmp_path):
    source = checkpoint.read(training_checkpoint(tmp_path / "run"))
    (tmp_path / "run" / "run.json").write_text("{}")
    for settings in (Settings(dtype="bfloat16"), Settings(shard_size=10**6)):
        folder = tmp_path / f"folder-{settings.dtype}"
        notes = convert(source, folder, settings=settings).notes
        assert any("left out the optimizer's state" in note for note in notes)
        assert not (folder / "checkpoints").exists() and not (folder / "run.json").exists()
    convert(source, tmp_path / "whole")
    assert (tmp_path / "whole" / "run.json").exists() and source.source.position == {"window": {}}


# dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dtype_changes_only_when_asked_and_rounds_as_torch_does(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    convert(source, tmp_path / "half", settings=Settings(dtype=dtype))
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    for name, tensor in checkpoint.read(tmp_path / "half").weights.items():
        expected = torch.from_numpy(source.weights[name].read().copy()).to(getattr(torch, dtype))
        found = torch.from_numpy(tensor.read().view(np.int16)).view(getattr(torch, dtype))
        assert torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0)), name


def test_a_value_too_large_for_the_dtype_is_refused(tmp_path):
    weights = random_weights(special=False)
    weights["bert.pooler.dense.bias"][3] = 1e6
    source = checkpoint.read(write_folder(tmp_path / "source", weights))
    with pytest.raises(UserError, match="bert.pooler.dense.bias: 1 value is too large for float16"):
        convert(source, tmp_path / "half", settings=Settings(dtype="float16"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_float64_is_rounded_once(tmp_path):
    weights = random_weights(dtype="float64", special=False)
    weights["bert.pooler.dense.bias"][:3] = 1 + 2.0**-8 + 2.0**-40, -(1 + 2.0**-8 + 2.0**-40), 1 + 2.0**-8
    source = checkpoint.read(write_folder(tmp_path / "source", weights))
    convert(source, tmp_path / "half", settings=Settings(dtype="bfloat16"))
    found = checkpoint.read(tmp_path / "half").weights["bert.pooler.dense.bias"].read().astype(float)
    assert found[:3].tolist() == [1.0078125, -1.0078125, 1.0]


# Faults


def test_all_faults_are_told_at_once_with_the_nearest_name(tmp_path):
    weights = random_weights()
    weights["bert.encoder.layer.1.attention.self.qeury.weight"] = weights.pop(
        "bert.encoder.layer.1.attention.self.query.weight"
    )
    del weights["cls.seq_relationship.bias"]
    weights["bert.pooler.dense.weight"] = weights["bert.pooler.dense.weight"][:5]
    weights["bert.embeddings.strange"] = np.zeros(3, np.float32)
    folder = write_folder(tmp_path / "source", weights)
    with pytest.raises(UserError) as told:
        checkpoint.read(folder)
    first, missing, unexpected, wrong = str(told.value).splitlines()
    assert "5 faults" in first
    query = "bert.encoder.layer.1.attention.self.{}.weight"
    assert missing.split()[:4] == ["missing", query.format("query"), "(nearest:", query.format("qeury") + "),"]
    assert "cls.seq_relationship.bias" in missing
    assert "bert.embeddings.strange" in unexpected and "qeury" in unexpected
    assert wrong.strip() == "wrong      bert.pooler.dense.weight: found (5, 12), expected (12, 12)"
    assert len(told.value.faults) == 5


def test_a_thousand_faults_are_told_in_a_few_lines_and_inspect_lists_them(tmp_path, capsys):
    strange = {f"strange.{i}": np.zeros(3, np.float32) for i in range(1000)}
    folder = write_folder(tmp_path / "source", random_weights() | strange)
    with pytest.raises(UserError) as told:
        checkpoint.read(folder)
    assert len(str(told.value).splitlines()) == 2 and "and 997 more" in str(told.value) and len(str(told.value)) < 600
    main(["inspect", str(folder)])
    assert "unexpected strange.999" in capsys.readouterr().out


def test_a_missing_part_must_be_allowed_and_a_part_is_whole_or_not_there(tmp_path):
    weights = {name: value for name, value in random_weights().items() if "pooler" not in name}
    folder = write_folder(tmp_path / "source", weights)
    with pytest.raises(UserError, match="2 faults"):
        checkpoint.read(folder)
    allowed = checkpoint.read(folder, allow_missing=["pooler"])
    assert allowed.architecture == "BertForPreTraining" and "pooler" not in allowed.parts
    convert(allowed, tmp_path / "m" / "model.ckpt")
    assert len(checkpoint.read(tmp_path / "m" / "model.ckpt", allow_missing=["pooler"]).weights) == 44
    half = write_folder(tmp_path / "half", {**weights, "bert.pooler.dense.bias": np.zeros(12, np.float32)})
    with pytest.raises(UserError, match="missing    bert.pooler.dense.weight"):
        checkpoint.read(half, allow_missing=["pooler"])


def test_a_part_is_dropped_when_asked(tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    convert(checkpoint.read(folder, drop=["mlm", "nsp"]), tmp_path / "encoder")
    found = arrays(tmp_path / "encoder")
    assert "embeddings.word_embeddings.weight" in found and len(found) == 39
    assert checkpoint.read(tmp_path / "encoder").architecture == "BertModel"
    with pytest.raises(UserError, match="BertModel has no mlm; see --drop"):
        checkpoint.read(folder, architecture="BertModel")


def test_what_a_kept_head_stands_on_is_not_dropped(tmp_path):
    for architecture in ("BertForPreTraining", "BertForSequenceClassification"):
        folder = write_folder(tmp_path / architecture, random_weights(architecture=architecture), CONFIG, architecture)
        with pytest.raises(UserError, match="--drop pooler would leave"):
            checkpoint.read(folder, drop=["pooler"])
        with pytest.raises(UserError, match="has no qa to --drop"):
            checkpoint.read(folder, drop=["qa"])
    assert checkpoint.read(tmp_path / "BertForPreTraining", drop=["pooler", "nsp"]).architecture == "BertForMaskedLM"


def test_a_given_config_says_the_architecture_too(tmp_path):
    config = CONFIG.replace(id2label=None)
    weights = random_weights(CONFIG.replace(id2label={"0": ""}), "BertForMultipleChoice")
    folder = write_folder(tmp_path / "source", weights, config, "BertForMultipleChoice")
    assert checkpoint.read(folder).architecture == "BertForMultipleChoice"
    read = checkpoint.read(folder / "model.safetensors", config=folder / "config.json")
    assert read.architecture == "BertForMultipleChoice"


def test_an_allowed_part_may_be_there(tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    assert checkpoint.read(folder, architecture="BertForPreTraining", allow_missing=["mlm"]).parts[-1] == "nsp"


def test_weights_that_are_no_floats_and_a_model_without_layers_are_refused(tmp_path):
    weights = random_weights(special=False)
    integers = {**weights, "bert.pooler.dense.bias": np.zeros(12, np.int32)}
    with pytest.raises(UserError, match="bert.pooler.dense.bias: found int32"):
        checkpoint.read(write_folder(tmp_path / "integers", integers))
    none = {name: value for name, value in weights.items() if ".layer." not in name}
    with pytest.raises(UserError, match="the encoder's layers"):
        checkpoint.read(write_folder(tmp_path / "none", none))


@pytest.mark.slow
def test_an_absurd_number_of_layers_is_told_soon(tmp_path):
    weights = random_weights(special=False)
    weights["bert.encoder.layer.9999.output.dense.bias"] = np.zeros(12, np.float32)
    with pytest.raises(UserError, match="missing"):
        checkpoint.read(write_folder(tmp_path / "source", weights))


def test_mixed_dtypes_are_kept_and_none_is_named_in_the_config(tmp_path):
    weights = random_weights()
    name = "bert.embeddings.word_embeddings.weight"
    weights[name] = random_array(np.random.default_rng(0), weights[name].shape, "float16")
    convert(checkpoint.read(write_folder(tmp_path / "source", weights)), tmp_path / "back")
    assert "dtype" not in json.loads((tmp_path / "back" / "config.json").read_text())
    assert all(same_bytes(value, weights[name]) for name, value in arrays(tmp_path / "back").items())


def test_more_heads_than_the_config_speaks_of_are_kept(tmp_path):
    """bert-base-uncased on the hub is called a BertForMaskedLM and holds all heads."""
    folder = write_folder(tmp_path / "source", random_weights(), architecture="BertForMaskedLM")
    assert checkpoint.read(folder).architecture == "BertForPreTraining"


def test_an_untied_decoder_and_odd_position_ids_are_refused(tmp_path):
    weights = random_weights(special=False)
    tied = {"cls.predictions.decoder.weight": weights["bert.embeddings.word_embeddings.weight"].copy()}
    tied["cls.predictions.decoder.bias"] = weights["cls.predictions.bias"]
    positions = {"bert.embeddings.position_ids": np.arange(17)[None]}
    assert len(checkpoint.read(write_folder(tmp_path / "tied", {**weights, **tied, **positions})).left_out) == 3
    tied["cls.predictions.decoder.weight"][0, 0] += 1
    with pytest.raises(UserError, match="differs from bert.embeddings.word_embeddings.weight"):
        checkpoint.read(write_folder(tmp_path / "untied", {**weights, **tied}))
    assert "mlm" not in checkpoint.read(tmp_path / "untied", drop=("mlm",)).parts
    bare = {name: value for name, value in weights.items() if not name.startswith("cls.")}
    with pytest.raises(UserError, match="cls.predictions.decoder.weight: differs from"):
        checkpoint.read(write_folder(tmp_path / "alone", {**bare, **tied}, architecture="BertModel"))
    with pytest.raises(UserError, match="its values are not 0, 1, 2"):
        checkpoint.read(write_folder(tmp_path / "odd", {**weights, "bert.embeddings.position_ids": np.ones((1, 17))}))


@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size", "max_position_embeddings", "type_vocab_size"])
def test_a_config_that_does_not_fit_is_refused(field, tmp_path):
    config = CONFIG.replace(**{field: getattr(CONFIG, field) + 1})
    with pytest.raises(UserError, match="wrong"):
        checkpoint.read(write_folder(tmp_path / "source", random_weights(), config))


def test_shapes_that_contradict_each_other_are_refused_without_a_config(tmp_path):
    weights = random_weights()
    weights["bert.encoder.layer.1.output.dense.weight"] = np.zeros((12, 19), np.float32)
    safetensors_file.write(tmp_path / "model.safetensors", tensors(weights), {})
    with pytest.raises(UserError, match="layer.1.output.dense.weight: found \\(12, 19\\), expected \\(12, 20\\)"):
        checkpoint.read(tmp_path / "model.safetensors")


def test_what_is_no_bert_is_refused(tmp_path):
    safetensors_file.write(tmp_path / "gpt.safetensors", tensors({"wte.weight": np.zeros((3, 2), np.float32)}), {})
    with pytest.raises(UserError, match="no word embeddings with any known name"):
        checkpoint.read(tmp_path / "gpt.safetensors")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="is not a checkpoint in a known format"):
        checkpoint.read(tmp_path / "text.ckpt")
    with pytest.raises(UserError, match="there is no"):
        checkpoint.read(tmp_path / "missing.ckpt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.read(tmp_path / "empty")


@pytest.mark.parametrize("kind, ending", LOSSLESS)
def test_a_truncated_file_is_refused_and_leaves_nothing(kind, ending, tmp_path):
    convert(checkpoint.read(write_folder(tmp_path / "source", random_weights())), path_for(tmp_path, ending), kind)
    main_file = {"hugging-face": "model/model.safetensors", "tensorflow": "model.index"}.get(kind, f"model{ending}")
    file = tmp_path / "place" / main_file
    content = file.read_bytes()
    for length in (0, 1, 7, 9, len(content) // 3, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises(UserError):
            convert(checkpoint.read(path_for(tmp_path, ending)), tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["place", "source"]


# The config


def test_a_config_google_cannot_say_is_refused(tmp_path):
    weights = random_weights()
    for number, (changed, words) in enumerate(
        (({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"), ({"hidden_act": "gelu_new"}, "hidden_act is gelu_new"))
    ):
        source = checkpoint.read(write_folder(tmp_path / str(number), weights, CONFIG.replace(**changed)))
        with pytest.raises(UserError, match=words):
            convert(source, tmp_path / "t" / "model", "tensorflow")
        assert not (tmp_path / "t").exists()


def test_googles_config_is_mapped_field_by_field(tmp_path):
    config = CONFIG.replace(id2label=None)
    text, left_out = configs.google(config)
    assert not left_out and json.loads(text)["type_vocab_size"] == 3 and "layer_norm_eps" not in json.loads(text)
    (tmp_path / "bert_config.json").write_bytes(text)
    assert configs.read(tmp_path).config == config
    # As published with the Chinese model.
    fields = {
        **json.loads(text),
        "directionality": "bidi",
        "pooler_fc_size": 768,
        "pooler_type": "first_token_transform",
    }
    (tmp_path / "bert_config.json").write_text(json.dumps(fields))
    assert configs.read(tmp_path).config == config
    (tmp_path / "bert_config.json").write_text(json.dumps({**fields, "embedding_size": 128}))
    with pytest.raises(UserError, match="embedding_size is 128 but hidden_size is 12"):
        configs.read(tmp_path)


def test_without_a_config_a_folder_cannot_be_made_and_a_file_can(tmp_path):
    safetensors_file.write(tmp_path / "model.safetensors", tensors(random_weights()), {})
    source = checkpoint.read(tmp_path / "model.safetensors")
    assert source.config is None and source.architecture == "BertForPreTraining"
    result = convert(source, tmp_path / "m" / "model.ckpt")
    assert any("no config" in note for note in result.notes)
    for target in (tmp_path / "folder", tmp_path / "model.onnx"):
        with pytest.raises(UserError, match="name it with --config"):
            convert(source, target)


# Targets


def test_the_ending_says_the_format(tmp_path):
    found = {
        name: target_of(tmp_path / name, None)[0] for name in ("a", "a.ckpt", "a.safetensors", "a.onnx", "a.mindir")
    }
    assert list(found.values()) == ["hugging-face", "ms_bert", "safetensors", "onnx", "mindir"]
    for name in ("a.ckpt.index", "a.ckpt"):
        assert target_of(tmp_path / name, "tensorflow") == ("tensorflow", tmp_path / "a.ckpt")
    assert target_of(tmp_path / "a.ckpt.index", None) == ("tensorflow", tmp_path / "a.ckpt")
    refused = (("a.bin", None), ("a.npz", None), ("a", "mindspore"), ("a.ckpt", "onnx"), (".index", "tensorflow"))
    for name, kind in refused:
        with pytest.raises(UserError):
            target_of(tmp_path / name, kind)


def test_what_is_there_is_not_overwritten_unless_asked(tmp_path):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    for target, kind in (
        (tmp_path / "folder", None),
        (tmp_path / "m" / "a.ckpt", None),
        (tmp_path / "t" / "a", "tensorflow"),
    ):
        convert(source, target, kind)
        with pytest.raises(UserError, match="already exists"):
            convert(source, target, kind)
        convert(source, target, kind, Settings(overwrite=True))
        assert report.same(report.diff(source, checkpoint.read(target))) or kind == "tensorflow"
    for own in (tmp_path / "source", tmp_path / "source" / "model.safetensors"):
        with pytest.raises(UserError, match="the source itself"):
            convert(source, own, settings=Settings(overwrite=True))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    training_checkpoint(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{}")
    for precious, words in ((tmp_path / "home", "holds thesis.txt"), (tmp_path / "run", "holds checkpoints")):
        with pytest.raises(UserError, match=words):
            convert(source, precious, settings=Settings(overwrite=True))
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


def test_overwriting_a_folder_deletes_nothing_but_a_checkpoint(tmp_path):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    again = Settings(overwrite=True)
    for number, precious in enumerate(("thesis.txt", "onnx", ".git", "checkpoints")):
        target = tmp_path / f"target-{number}"
        convert(source, target)
        (target / precious).mkdir() if "." not in precious[1:] else (target / precious).write_text("precious")
        with pytest.raises(UserError, match=f"holds {precious}"):
            convert(source, target, settings=again)
        assert (target / precious).exists()
    inner = tmp_path / "outer" / "inner"
    convert(source, inner / "a.ckpt")
    with pytest.raises(UserError, match="holds the source itself"):
        convert(checkpoint.read(inner / "a.ckpt"), tmp_path / "outer", settings=again)
    (tmp_path / "note").write_text("precious")
    with pytest.raises(UserError, match="is a file"):
        convert(source, tmp_path / "note", settings=again)
    with pytest.raises(UserError, match="is a folder"):
        convert(source, inner, "tensorflow", again)
    assert not list(tmp_path.rglob(".*writing*")) and not list(tmp_path.rglob(".*replaced*"))


@pytest.mark.parametrize("target", ["folder", "m/a.ckpt"])
def test_what_comes_to_be_there_meanwhile_is_not_touched(target, tmp_path, monkeypatch):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    path = tmp_path / target
    real = writing._read_back

    def meanwhile(*arguments):
        real(*arguments)
        if path.suffix:
            path.write_text("precious")
        else:
            path.mkdir()
            (path / "thesis.txt").write_text("precious")

    monkeypatch.setattr(writing, "_read_back", meanwhile)
    with pytest.raises((UserError, OSError)):
        convert(source, path)
    assert (path if path.suffix else path / "thesis.txt").read_text() == "precious"


def test_a_files_neighbours_are_not_overwritten_whatever_they_are_called(tmp_path):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "bert_config.json").write_text('{"precious": 1}')
    (tmp_path / "t" / "other.data-00000-of-00001").write_text("precious")
    with pytest.raises(UserError, match="already exists"):
        convert(source, tmp_path / "t" / "other", "tensorflow")
    convert(source, tmp_path / "t" / "bert", "tensorflow", Settings(overwrite=True))
    assert checkpoint.read(tmp_path / "t" / "bert").config == CONFIG.replace(id2label=None)
    assert (tmp_path / "t" / "bert_config.json").read_text() == '{"precious": 1}'
    run = training_checkpoint(tmp_path / "run")
    (run / "run.json").write_text("{}")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for target in (run / "a.ckpt", run / "model.safetensors"):
        with pytest.raises(UserError, match="folder of a run"):
            convert(source, target, settings=Settings(overwrite=True))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_no_config_of_another_model_is_left_to_be_taken_for_the_targets(tmp_path):
    safetensors_file.write(tmp_path / "bare.safetensors", tensors(random_weights()), {})
    other = write_folder(tmp_path / "other", random_weights())
    with pytest.raises(UserError, match="config.json already exists and does not belong to this model"):
        convert(checkpoint.read(tmp_path / "bare.safetensors"), other / "x.safetensors")


def test_a_checkpoint_can_be_converted_within_its_own_folder(tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    text = (folder / "config.json").read_text().replace("{", '{"transformers_version": "4.8.2", ', 1)
    (folder / "config.json").write_text(text)
    notes = convert(checkpoint.read(folder), folder / "mindspore.ckpt").notes
    assert (folder / "config.json").read_text() == text
    assert "left out of the config, without effect on the results: transformers_version" in notes


def test_what_other_libraries_read_of_a_config_travels_along(tmp_path):
    """The activation with which sentence-transformers' CrossEncoder makes a score of a logit, by both its names."""
    identity = "torch.nn.modules.linear.Identity"
    said = {
        "sentence_transformers": {"activation_fn": identity},
        "sbert_ce_default_activation_function": identity,
    }
    folder = write_folder(tmp_path / "source", random_weights())
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    notes = convert(checkpoint.read(folder), tmp_path / "there").notes
    convert(checkpoint.read(tmp_path / "there"), tmp_path / "a" / "bert.ckpt")
    for found in (tmp_path / "there", tmp_path / "a"):
        assert json.loads((found / "config.json").read_text()).items() >= said.items()
    assert not any("sbert_ce" in note for note in notes)
    config.write_text(config.read_text().replace(f'{{"activation_fn": "{identity}"}}', '{"version": NaN}'))  # no JSON
    notes = convert(checkpoint.read(folder), tmp_path / "nan").notes
    assert "sentence_transformers" not in json.loads((tmp_path / "nan" / "config.json").read_text())
    assert any("left out of the config" in note and "sentence_transformers" in note for note in notes)
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    notes = convert(checkpoint.read(folder), tmp_path / "b" / "bert", "tensorflow").notes
    assert any("left out sentence_transformers from the config" in note for note in notes)


def test_the_state_of_a_trainer_is_told_to_stay_behind(tmp_path):
    folder = write_folder(tmp_path / "checkpoint-2", random_weights())
    assert not any("Trainer" in note for note in convert(checkpoint.read(folder), tmp_path / "a").notes)
    for name in ("optimizer.pt", "rng_state_0.pth", "trainer_state.json"):
        (folder / name).write_bytes(b"of the Trainer")
    told = "left out the state of transformers' Trainer: optimizer.pt, rng_state_0.pth, trainer_state.json"
    assert told in convert(checkpoint.read(folder), tmp_path / "b").notes


def test_overwriting_leaves_no_stale_part_of_the_old_checkpoint(tmp_path):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    convert(source, tmp_path / "t" / "a", "tensorflow")
    (tmp_path / "t" / "a.data-00001-of-00002").write_text("old")
    convert(source, tmp_path / "t" / "a", "tensorflow", Settings(overwrite=True))
    assert sorted(p.name for p in (tmp_path / "t").glob("a.*")) == ["a.data-00000-of-00001", "a.index"]


@pytest.mark.parametrize("crowded", [False, True])
def test_checkpoints_of_several_models_lie_side_by_side_each_with_its_own_config(crowded, tmp_path):
    """In a folder that was empty the first has its config beside it; elsewhere, nobody else's folder is filled."""
    models = {"a": CONFIG, "b": CONFIG.replace(hidden_act="relu"), "c": CONFIG.replace(layer_norm_eps=1e-6)}
    (tmp_path / "m").mkdir()
    if crowded:
        (tmp_path / "m" / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        for name, config in models.items():
            folder = tmp_path / f"{name}-{overwrite}"
            read = checkpoint.read(write_folder(folder, random_weights(special=overwrite), config))
            notes = " ".join(
                convert(read, tmp_path / "m" / f"{name}.ckpt", settings=Settings(overwrite=overwrite)).notes
            )
            assert (f"config.json, vocab.txt are in {name}.ckpt.files" in notes) == (crowded or name != "a")
    assert (tmp_path / "m" / "config.json").exists() != crowded
    for name, config in models.items():
        convert(checkpoint.read(tmp_path / "m" / f"{name}.ckpt"), tmp_path / f"{name}-back")
        assert configs.read(tmp_path / f"{name}-back").config == config
        assert (tmp_path / f"{name}-back" / "vocab.txt").exists()
        assert report.same(
            report.diff(checkpoint.read(tmp_path / f"{name}-True"), checkpoint.read(tmp_path / f"{name}-back"))
        )


def test_the_config_beside_a_checkpoint_that_is_alone_in_its_folder_is_replaced_with_it(tmp_path):
    a = checkpoint.read(write_folder(tmp_path / "a", random_weights()))
    other = write_folder(tmp_path / "b", random_weights(), CONFIG.replace(hidden_act="relu"))
    target, again = tmp_path / "google" / "bert_model.ckpt", Settings(overwrite=True)
    convert(a, target, "tensorflow")
    before = {path.name for path in target.parent.iterdir()}
    convert(checkpoint.read(other), target, "tensorflow", again)
    assert configs.read(tmp_path / "google").config.hidden_act == "relu"
    assert {path.name for path in target.parent.iterdir()} == before
    # A vocabulary that would not be written again is not taken away, and not taken for the new model's.
    (other / "vocab.txt").write_text("[PAD]\n[UNK]\nnew\n")
    (other / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    convert(a, target, "tensorflow", again)
    (other / "vocab.txt").unlink()
    convert(checkpoint.read(other), target, "tensorflow", again)
    assert (target.parent / "vocab.txt").exists() and checkpoint.read(target).tokenizer == []
    bare = checkpoint.read(tmp_path / "a" / "model.safetensors")
    convert(bare, target, "tensorflow", again)
    assert {path.name for path in target.parent.iterdir()} == before


def test_the_companions_of_a_file_are_replaced_only_where_nothing_else_lies_among_them(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    convert(source, tmp_path / "a.ckpt")
    (tmp_path / "a.ckpt.files" / "note.txt").write_text("precious")
    with pytest.raises(UserError, match="a.ckpt.files holds note.txt, which a conversion would not write again"):
        convert(source, tmp_path / "a.ckpt", settings=Settings(overwrite=True))
    assert (tmp_path / "a.ckpt.files" / "note.txt").read_text() == "precious"


# The tokenizer


def test_a_damaged_tokenizer_is_not_passed_on(tmp_path):
    whole = Tokenizer(models.WordPiece({"[PAD]": 0, "[UNK]": 1})).to_str().encode()
    damaged = {
        "vocab.txt": [b"", b"[PAD]\n\xff\xfe\n", b"\0" * 50],
        "tokenizer.json": [b"", whole[:-2], whole.replace(b"null", b"NaN", 1), b"[1]", b"{}", b"\xff{}", b"[" * 100000],
        "tokenizer_config.json": [b"{", b"3"],
        "special_tokens_map.json": [b'{"a": "\xe4"}'],
    }
    folder = write_folder(tmp_path / "source", random_weights())
    for name, contents in damaged.items():
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        for content in contents:
            (folder / name).write_bytes(content)
            with pytest.raises(UserError, match=f"{name} is damaged .*move it away to convert without it"):
                convert(checkpoint.read(folder), tmp_path / "target")
        (folder / name).write_bytes(before) if before else (folder / name).unlink()
    convert(checkpoint.read(folder), tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.mark.parametrize(
    "model",
    [
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
        models.Unigram([("a", -1.5), ("b", -2.0)], unk_id=0),
        models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"),
    ],
)
def test_tokenizers_of_other_kinds_travel(model, tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(Tokenizer(model).to_str())
    result = convert(checkpoint.read(folder), tmp_path / "target")
    assert not result.notes
    assert (tmp_path / "target" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_a_vocabulary_that_does_not_fit_is_said(tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    (folder / "vocab.txt").write_text("".join(f"word{i}\n" for i in range(70)))
    entries = {f"word{i}": i for i in range(50)}
    (folder / "tokenizer.json").write_text(Tokenizer(models.WordPiece(entries, unk_token="word0")).to_str())
    notes = convert(checkpoint.read(folder), tmp_path / "target").notes
    assert "vocab.txt has ids up to 69, but the model has word embeddings only up to 60" in notes
    assert "vocab.txt has ids up to 69, but tokenizer.json up to 49" in notes


def test_added_tokens_travel_with_the_vocabulary(tmp_path):
    folder = write_folder(tmp_path / "source", random_weights())
    (folder / "added_tokens.json").write_text('{"[E1]": 59}')
    convert(checkpoint.read(folder), tmp_path / "target")
    assert (tmp_path / "target" / "added_tokens.json").read_text() == '{"[E1]": 59}'
    (folder / "added_tokens.json").write_text('{"[E1]": 61}')
    notes = convert(checkpoint.read(folder), tmp_path / "other").notes
    assert "added_tokens.json has ids up to 61, but the model has word embeddings only up to 60" in notes


# What files say is not done to a terminal

HOSTILE = ("\x1b[2J\x1b[31mred", "two\nlines", "\u202eright to left", "carriage\rreturn", "n" * 100_000)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_of_a_tensor_reaches_the_terminal_as_it_is(name, tmp_path, capsys):
    weights = random_weights(special=False)
    a = write_folder(tmp_path / "a", weights)
    b = write_folder(tmp_path / "b", {**weights, name: np.zeros(3, np.float32)})
    for arguments in (
        ("inspect", b),
        ("inspect", b, "--json"),
        ("convert", b, tmp_path / "target"),
        ("diff", a, b),
        ("verify", a, b, "--report", tmp_path / "report.html"),
    ):
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and err[:-1].isprintable() and len(err) < 600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_value_of_a_config_reaches_the_terminal_as_it_is(text, tmp_path, capsys):
    folder = write_folder(tmp_path / "a", random_weights())
    for number, change in enumerate(({"hidden_act": text}, {"architectures": [text]}, {text: 1}, {"vocab_size": text})):
        (folder / "config.json").write_text(json.dumps(CONFIG.to_dict() | change))
        for arguments in (("inspect", folder), ("convert", folder, tmp_path / f"{number}"), ("diff", folder, folder)):
            main([str(argument) for argument in arguments])
            told = "".join(capsys.readouterr())
            assert "\x1b" not in told and "\r" not in told and "\u202e" not in told and len(told) < 20_000


def test_a_message_is_cut_and_escaped_line_by_line():
    assert str(UserError("a \x1b[1mb\nc\td", details=["e\x1b"])) == "a \\x1b[1mb\\nc\\td\ne\\x1b"
    assert str(UserError("\u4f60\u597d \udcff")) == "\u4f60\u597d \\udcff"
    lines = str(UserError("x" * 5000, details=["y"])).split("\n")
    assert len(lines[0]) < 1000 and "4,100 more characters" in lines[0] and lines[1] == "y"


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    """The system's limit of a file's size stands for the full disk."""
    source = write_folder(tmp_path / "source", random_weights())
    before = sorted(tmp_path.rglob("*"))
    for target in ("folder", "m/a.ckpt", "t/a.ckpt.index", "deep/er/a.onnx"):
        result = subprocess.run(
            [sys.executable, "-m", "conversion", "convert", str(source), str(tmp_path / target)],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1 and "Traceback" not in result.stderr and "the disk is not full" in result.stderr
        assert sorted(tmp_path.rglob("*")) == before


def test_what_is_written_is_read_back_and_compared(tmp_path, monkeypatch):
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights()))
    real = safetensors_file.write

    def failing(path, named, metadata):
        name, tensor = list(named.items())[5]
        flipped = tensor.read().copy()
        flipped.reshape(-1).view(np.uint8)[0] ^= 1
        real(path, {**named, name: Tensor.of(flipped)}, metadata)

    monkeypatch.setattr(safetensors_file, "write", failing)
    with pytest.raises(OSError, match="has other bytes than were written"):
        convert(source, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


# Cost


def test_no_framework_is_imported_without_need(tmp_path):
    source = write_folder(tmp_path / "source", random_weights())
    torch_bin.write(tmp_path / "source.bin", safetensors_file.read(source / "model.safetensors"))
    program = (
        "import sys; from conversion.__main__ import main\n"
        f"source, place = {str(source)!r}, {str(tmp_path)!r}\n"
        "for a, b in ((source, '/m/a.ckpt'), (place + '/m/a.ckpt', '/t/a.ckpt.index'), (place + '/t', '/back')):\n"
        "    assert main(['convert', a, place + b]) == 0\n"
        "assert main(['diff', source, place + '/m']) == 0 and main(['inspect', place + '/m']) == 0\n"
        "assert main(['diff', source, source + '.bin']) == 0\n"
        "print([name for name in ('torch', 'mindspore', 'tensorflow', 'onnx', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind, ending", [("hugging-face", ""), ("mindspore", ".ckpt"), ("tensorflow", "")])
def test_memory_stays_under_twice_the_largest_tensor(kind, ending, tmp_path):
    config = BertConfig(
        vocab_size=20000, hidden_size=256, num_hidden_layers=24, num_attention_heads=4, intermediate_size=1024
    )
    source = write_folder(tmp_path / "source", random_weights(config, special=False), config)
    largest = 20000 * 256 * 4
    size = os.path.getsize(source / "model.safetensors")
    assert size > 4 * largest
    tracemalloc.start()
    try:
        convert(checkpoint.read(source), path_for(tmp_path, ending), kind)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.3 * largest, peak / largest


def test_fortran_ordered_and_strided_arrays_arrive_in_order():
    values = random_array(np.random.default_rng(1), (6, 10), "float32")
    for other in (np.asfortranarray(values), np.repeat(values, 2, 1)[:, ::2]):
        tensor = Tensor.of(other)
        assert tensor.read().flags.c_contiguous and tensor.read().tobytes() == values.tobytes()


# The command


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("a.safetensors", "--shard-size", "5"), "--shard-size has no effect on a safetensors target"),
        (("a.ckpt", "--optimize"), "--optimize has no effect"),
        (("folder", "--seq-length", "9"), "--seq-length has no effect"),
        (("a.ckpt", "--to", "safetensors"), "must end in .safetensors"),
        ((".",), "without a name for the target"),
        (("a.bin",), "no target has the ending .bin"),
        (("a.ckpt", "--drop", "qa"), "has no qa"),
        (("a.ckpt", "--from", "tensorflow"), "no word embeddings"),
        (("a.ckpt", "--config", "nothing.json"), "there is no nothing.json"),
    ],
)
def test_an_option_that_means_nothing_is_refused(arguments, words, tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "source", random_weights())
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "source", *arguments]) == 2
    assert words in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    "text", ["[" * 100000, "[]", '{"num_labels": "abc"}', '{"architectures": [["x"]], "vocab_size": 61}', '{"no": 1}']
)
def test_a_strange_config_is_a_sentence(text, tmp_path, capsys):
    (write_folder(tmp_path / "source", random_weights()) / "config.json").write_text(text)
    assert main(["convert", str(tmp_path / "source"), str(tmp_path / "target")]) == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "target").exists()


def test_an_interrupt_leaves_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    source = write_folder(tmp_path / "source", random_weights())

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_read_back", interrupted)
    assert main(["convert", str(source), str(tmp_path / "target")]) == 130
    assert "interrupted" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["source"]


def test_inspect_tells_what_a_file_holds(tmp_path, capsys):
    source = training_checkpoint(tmp_path / "source")
    assert main(["inspect", str(source), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["architecture"] == "BertForPreTraining" and told["container"] == "run folder"
    assert told["parameters"] == sum(value.size for value in random_weights().values())
    assert told["config"]["hidden_act"] == "gelu" and told["optimizer"]["step"] == 70 and told["dtypes"] == ["float32"]
    assert {"name": "bert.pooler.dense.bias", "shape": [12], "dtype": "float32"} in told["tensors"]
    assert main(["inspect", str(source)]) == 0
    text = capsys.readouterr().out
    assert "bert.pooler.dense.bias" in text and "layer_norm_eps 1e-12" in text and "step 70" in text


def test_inspect_of_no_bert_tells_what_it_found_and_exits_with_1(tmp_path, capsys):
    values = np.zeros((3, 2), np.float32)
    safetensors_file.write(tmp_path / "gpt.safetensors", tensors({"wte.weight": values, "wpe.weight": values}), {})
    assert main(["inspect", str(tmp_path / "gpt.safetensors")]) == 1
    text = capsys.readouterr().out
    assert "not a BERT" in text and "wte.weight" in text and "wpe.weight" in text
    assert main(["inspect", str(tmp_path / "gpt.safetensors"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert "not_a_bert" in told and told["tensors"][0]["name"] in ("wte.weight", "wpe.weight")
    # Nor is what the config calls another model, whatever its tensors are called.
    folder = write_folder(tmp_path / "roberta", random_weights())
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, "model_type": "roberta"}))
    assert main(["inspect", str(folder)]) == 1
    text = capsys.readouterr().out
    assert "model_type is 'roberta'" in text and "bert.pooler.dense.bias" in text


def test_a_path_that_is_no_utf8_is_written_and_told(tmp_path):
    source = write_folder(tmp_path / "source", random_weights())
    ran = subprocess.run(
        [sys.executable, "-m", "conversion", "convert", source, os.fsencode(tmp_path) + b"/caf\xe9.ckpt"],
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
    )
    assert ran.returncode == 0 and rb"caf\udce9.ckpt" in ran.stdout, ran.stderr


def test_what_is_odd_about_a_config_is_told_by_convert_and_by_inspect(tmp_path, capsys):
    source = write_folder(tmp_path / "source", random_weights())
    fields = json.loads((source / "config.json").read_text())
    odd = {"output_past": True, "adapters": {}, "id2label": {"0": "a"}, "num_labels": 5}
    (source / "config.json").write_text(json.dumps({**fields, **odd}))
    assert main(["convert", str(source), str(tmp_path / "target")]) == 0
    converted = capsys.readouterr().out
    assert main(["inspect", str(source)]) == 0
    inspected = capsys.readouterr().out
    for text in (converted, inspected):
        assert "left out of the config, without effect on the results: output_past" in text
        assert "unknown fields, which were left out: adapters" in text
        assert "num_labels 5 is used, not the number of names in id2label (1)" in text
    assert "output_past" not in (tmp_path / "target" / "config.json").read_text()
    assert main(["inspect", str(source), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["notes"]) == 3


def test_a_config_that_cannot_be_read_is_not_as_good_as_none(tmp_path, capsys):
    source = write_folder(tmp_path / "source", random_weights())
    (source / "config.json").unlink()
    (source / "config.json").symlink_to("config.json")
    assert main(["convert", str(source), str(tmp_path / "target.ckpt")]) == 2
    assert "symbolic links" in capsys.readouterr().err and not (tmp_path / "target.ckpt").exists()
    (source / "config.json").unlink()
    (source / "config.json").mkdir()
    assert main(["convert", str(source), str(tmp_path / "target.ckpt")]) == 2
    assert "not a regular file" in capsys.readouterr().err


def test_diff_tells_what_differs(tmp_path, capsys):
    weights = random_weights(special=False)
    a = write_folder(tmp_path / "a", weights)
    changed = {name: value.copy() for name, value in weights.items()}
    changed["bert.pooler.dense.bias"][2] += 0.5
    changed["cls.predictions.bias"][0] = np.nan
    b = write_folder(tmp_path / "b", changed, CONFIG.replace(hidden_act="relu"))
    convert(checkpoint.read(b), tmp_path / "m" / "b.ckpt")
    assert main(["diff", str(a), str(a)]) == 0
    assert "46 tensors, byte for byte" in capsys.readouterr().out
    assert main(["diff", str(a), str(tmp_path / "m"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    by_name = {entry["name"]: entry for entry in told["differing"]}
    assert set(by_name) == {"bert.pooler.dense.bias", "cls.predictions.bias"} and told["equal"] == 44
    assert by_name["bert.pooler.dense.bias"]["values"] == 1
    assert by_name["bert.pooler.dense.bias"]["largest"] == pytest.approx(0.5)
    assert by_name["cls.predictions.bias"]["not_finite"] == 1
    assert told["config"] == [{"name": "hidden_act", "a": "gelu", "b": "relu"}]
    assert main(["diff", str(a), str(b)]) == 1
    assert "bert.pooler.dense.bias: 1 value differs by up to 5.00e-01" in capsys.readouterr().out


def test_the_command_reports_as_json_and_refuses_in_a_sentence(tmp_path, capsys):
    source = write_folder(tmp_path / "source", random_weights())
    assert main(["convert", str(source), str(tmp_path / "m" / "a.ckpt"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["to"] == "ms_bert" and told["tensors"] == 46 and told["optimizer"] is None
    assert main(["convert", str(source), str(tmp_path / "m" / "a.ckpt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("python -m conversion: ") and error.count("\n") == 1 and "--overwrite" in error
    assert main(["convert", str(tmp_path / "nothing"), str(tmp_path / "x")], program="ms-bert") == 2
    assert capsys.readouterr().err.startswith("ms-bert: there is no ")
    assert main(["convert", str(source), str(tmp_path / "h"), "--dtype", "bfloat16", "--drop", "mlm", "nsp"]) == 0
    assert set(FAMILIES) >= {checkpoint.read(tmp_path / "h").spelling.family}


def test_fusions_are_compared_with_the_plain_graph(tmp_path, monkeypatch):
    onnx_graph = pytest.importorskip("conversion.formats.onnx_graph")
    source = checkpoint.read(write_folder(tmp_path / "source", random_weights(special=False)))
    notes = convert(source, tmp_path / "a" / "m.onnx", settings=Settings(optimize=True)).notes
    convert(source, tmp_path / "c" / "m[1].onnx", settings=Settings(optimize=True))
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["config.json", "m[1].onnx", "vocab.txt"]
    assert "2 Attention" in notes[-1] and "the outputs agree to" in notes[-1]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "m.onnx", "vocab.txt"]

    def wrong(path, config, target):
        weights = {**source.weights, "cls.predictions.bias": Tensor.of(np.ones(61, np.float32))}
        onnx_graph.write(target, config, "BertForPreTraining", weights)
        return {}

    monkeypatch.setattr(onnx_graph, "fuse", wrong)
    with pytest.raises(OSError, match="the fused graph computes something else"):
        convert(source, tmp_path / "b" / "m.onnx", settings=Settings(optimize=True))
    assert not (tmp_path / "b").exists()
