"""The models by name, each with its task."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pentad.core.errors import ModelError, nearest
from pentad.nlp.models.bert_cnn import BertCnn, BertCnnConfig
from pentad.nlp.models.char_tfidf import CharTfidf, CharTfidfConfig
from pentad.nlp.models.crf import Crf, CrfConfig
from pentad.nlp.models.encoder import EncoderConfig
from pentad.nlp.models.heads import BertSequence, BertTokens


@dataclass(frozen=True)
class Entry:
    """A model: ``entities`` or ``classes``, its configuration and its class."""

    task: str
    config: type
    model: type[nn.Module]


MODELS: dict[str, Entry] = {
    "bert_tokens": Entry("entities", EncoderConfig, BertTokens),
    "crf": Entry("entities", CrfConfig, Crf),
    "bert_sequence": Entry("classes", EncoderConfig, BertSequence),
    "bert_cnn": Entry("classes", BertCnnConfig, BertCnn),
    "char_tfidf": Entry("classes", CharTfidfConfig, CharTfidf),
}
BASELINES = ("crf", "char_tfidf")
CLASSES = {name: entry.model for name, entry in MODELS.items()}


def entry(name: str, task: str) -> Entry:
    """Return the model of a name.

    Raises:
        ModelError: There is none, or it is of another task.
    """
    fitting = [other for other, found in MODELS.items() if found.task == task]
    if name not in MODELS:
        problem = f"there is no model '{name}'{nearest(name, MODELS)}"
        raise ModelError("PTD-788", problem, f"choose one of {', '.join(fitting)}")
    if MODELS[name].task != task:
        problem = f"'{name}' finds {MODELS[name].task}, and the data hold {task}"
        raise ModelError("PTD-788", problem, f"choose one of {', '.join(fitting)}")
    return MODELS[name]
