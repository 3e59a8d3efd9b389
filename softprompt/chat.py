"""How a question is put to a model: as plain text, or through the chat template of a post-trained one.

In a chat the instruction, the solved examples and the question are the user's turn. The cue starts the assistant's,
so that vectors can replace it there as they do in plain text; the answer follows it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from softprompt.benchmarks import Benchmark, Example
from softprompt.errors import BadCheckpoint
from softprompt.models import LanguageModel


@dataclass(frozen=True)
class Asked:
    """The text in front of an answer, without the BOS that the tokenizer puts in front of every text."""

    question: str
    cue: str

    @property
    def prompt(self) -> str:
        return self.question + self.cue


def cue_of(benchmark: Benchmark, *, chat: bool = False) -> str:
    """What stands between a question and its answer."""
    return benchmark.cue.lstrip() if chat else benchmark.cue


def ask(
    model: LanguageModel, benchmark: Benchmark, example: Example, shots: Iterable[Example] = (), *, chat: bool = False
) -> Asked:
    """Put `example` to `model`, with solved examples before it if `shots` are given.

    Raises:
        BadCheckpoint: `chat` is asked of a tokenizer that has no chat template.
    """
    question = benchmark.question(example, shots)
    if chat:
        question = _rendered(model, [{"role": "user", "content": question}])
    return Asked(question, cue_of(benchmark, chat=chat))


def answer_ids(model: LanguageModel, benchmark: Benchmark, example: Example, text: str, *, chat: bool) -> list[int]:
    """Tokens of `text` as the answer to `example`."""
    return model.continuation(ask(model, benchmark, example, chat=chat).prompt, f" {text}")


def terminator_id(model: LanguageModel, *, chat: bool = False) -> int:
    """The token that tuned answers end with: what ends the assistant's turn in the template, if it also ends an answer;
    else the model's own."""
    if not chat:
        return model.terminator_id
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    behind = _rendered(model, turns, answered=True).rpartition("!")[2]
    return next((token for token in model.encode(behind) if token in model.eos_ids), model.terminator_id)


def _rendered(model: LanguageModel, turns: list[dict[str, str]], *, answered: bool = False) -> str:
    """The template's text. Of two BOS, its own and the one that the tokenizer adds, one is left: the tokenizer's."""
    tokenizer = model.tokenizer
    if not tokenizer.chat_template:
        raise BadCheckpoint(
            f"The tokenizer of {model.network.name_or_path or 'this model'} has no chat template; set chat = false, or "
            "name the post-trained model's tokenizer."
        )
    text: str = tokenizer.apply_chat_template(
        turns,
        tokenize=False,
        add_generation_prompt=not answered,
        enable_thinking=False,  # templates of models that can think ask for it; the others ignore it
    )
    return text.removeprefix(tokenizer.bos_token or "") if model.bos_ids else text
