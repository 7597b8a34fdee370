"""The tasks that a model can be fine-tuned for, by name."""

from __future__ import annotations

from ms_bert.tasks import answer_selection, classification, glue, multiple_choice, question_answering, tagging
from ms_bert.tasks.downstream import DownstreamTask

KINDS: dict[str, type[DownstreamTask]] = {
    kind.name: kind
    for kind in (
        classification.Classification,
        classification.Regression,
        classification.MultiLabel,
        tagging.Tagging,
        multiple_choice.MultipleChoice,
        answer_selection.AnswerSelection,
        question_answering.QuestionAnswering,
    )
}


def kind(name: str) -> type[DownstreamTask]:
    """That of a task, or of a dataset of GLUE.

    Args:
        name: as --task names it.
    """
    dataset = glue.DATASETS.get(name)
    if dataset is None:
        return KINDS[name]
    return classification.Regression if dataset.regression else classification.Classification
