"""What transformers' own BERT computes of a problem, in float32: an implementation that nobody here wrote."""

from __future__ import annotations

import torch
import transformers
from transformers.models.bert.modeling_bert import BertPooler

from conversion.agreement import cases
from conversion.agreement.cases import Problem, Tensors
from conversion.parameters import ARCHITECTURES, SLOT, projection
from ms_bert.data.batches import Batch


def has(architecture: str) -> bool:
    """Whether transformers has a class of this name."""
    return hasattr(transformers, architecture)


class Transformers:
    """A contender for the forward pass, of rows that hold one sequence each."""

    name, precision, own_dropout = "transformers", "float32", False

    def leaves_out(self, name: str) -> bool:
        return name.endswith("attention.output")  # inside a layer

    def forward(self, problem: Problem, batch: Batch) -> Tensors:
        model, inner = self._model(problem)
        inputs = {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["sequence_ids"],
            "token_type_ids": batch["token_type_ids"],
            "position_ids": batch["position_ids"],
        }
        inputs = {name: torch.from_numpy(value).long() for name, value in inputs.items()}
        with torch.no_grad():
            of_model = inner(**inputs, output_hidden_states=True, output_attentions=True)
            hidden = of_model.last_hidden_state
            found = {"embeddings": _rows(of_model.hidden_states[0])}
            for i, (probabilities, output) in enumerate(zip(of_model.attentions, of_model.hidden_states[1:])):
                found[f"layer.{i}.attention.probabilities"] = probabilities
                found[f"layer.{i}.output"] = _rows(output)
            if problem.pooler:
                # A row for each place of a sequence, as in a batch of packed rows; here only the first is one.
                pooled = of_model.pooler_output.repeat_interleave(batch["cls_positions"].shape[1], 0)
                found["pooled_output"] = pooled
            slots = torch.from_numpy(batch["masked_positions"]).long()[:, :, None].expand(-1, -1, hidden.shape[-1])
            for head in ARCHITECTURES[problem.architecture].heads:
                rows = pooled if head.pooled else hidden.gather(1, slots) if head.row == SLOT else hidden
                found[head.tensor] = _rows(model.get_submodule(projection(head.part))(rows))
        if cases.outputs(problem) == ["last_hidden_state"]:
            found["last_hidden_state"] = _rows(hidden)
        return {name: value.double().numpy() for name, value in found.items()}

    def _model(self, problem: Problem):
        """The class of transformers with the problem's weights in it, and the BertModel within."""
        name, config, _ = cases.cell(problem)
        config = transformers.BertConfig(**config.to_dict(), attn_implementation="eager")
        model = getattr(transformers, name)(config).eval()
        inner = model.bert if ARCHITECTURES[name].heads else model
        inner.pooler = BertPooler(config) if problem.pooler else None  # with some heads it may be there or not
        prefix = ARCHITECTURES[name].prefix
        weights = {key.removeprefix(prefix): torch.from_numpy(value) for key, value in problem.weights.items()}
        told = model.load_state_dict(weights, strict=False)
        # The decoder is the word embedding, and its bias the head's.
        lacking = [key for key in told.missing_keys if "predictions.decoder" not in key]
        if lacking or told.unexpected_keys:
            raise ValueError(f"transformers' {name} lacks {lacking} and does not know {told.unexpected_keys}")
        model.tie_weights()
        return model, inner


def _rows(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(-1, value.shape[-1])
