"""How a question is put to a model: as plain text, or through the chat template of a post-trained one.

In a chat the instruction, the solved examples and the question are the user's turn. The cue starts the assistant's,
so that vectors can replace it there as they do in plain text; the answer follows it.
"""

import functools
import string
from collections.abc import Iterable
from dataclasses import dataclass

from softprompt.benchmarks import Benchmark, Example
from softprompt.errors import BadCheckpoint
from softprompt.models import LanguageModel

ENDS = (*string.punctuation, "a", "0")
"""Of questions."""


@dataclass(frozen=True)
class Asked:
    """The text in front of an answer, without the BOS that the tokenizer puts in front of every text: what stays, and
    the cue, which vectors may replace."""

    question: str
    cue: str

    @property
    def prompt(self) -> str:
        return self.question + self.cue


@dataclass(frozen=True, eq=False)
class Wording:
    """A benchmark put to one model.

    Raises:
        BadCheckpoint: from any method, if `chat` is asked of a tokenizer that has no chat template.
    """

    model: LanguageModel
    benchmark: Benchmark
    chat: bool = False

    @functools.cached_property
    def cue(self) -> str:
        """What stands between a question and its answer; without the `tie`."""
        return self._cue.removeprefix(self.tie)

    @functools.cached_property
    def tie(self) -> str:
        """White space in front of the cue that the tokenizer may join to a question's last character, as Llama 3 and
        Qwen do with a line break. It stays with the question: so every question's tokens are those of the plain prompt,
        and vectors in place of the rest start as that."""
        space = self._cue[: len(self._cue) - len(self._cue.lstrip())]
        return space if space != self._cue and any(map(self._joins, ENDS)) else ""

    @property
    def terminator_id(self) -> int:
        """The token that tuned answers end with: what ends the assistant's turn in the template, if it also ends an
        answer; else the model's own."""
        if not self.chat:
            return self.model.terminator_id
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
        behind = self._rendered(turns, answered=True).rpartition("!")[2]
        ends = (token for token in self.model.encode(behind) if token in self.model.eos_ids)
        return next(ends, self.model.terminator_id)

    def cue_ids(self, text: str = "") -> list[int]:
        """Tokens of the cue, or of a `text` in its place, as they follow a question: alone, some tokenizers put a space
        in front of it."""
        return self.model.continuation(f"?{self.tie}", (text or self._cue).removeprefix(self.tie))

    def ask(self, example: Example, shots: Iterable[Example] = ()) -> Asked:
        """Put `example` to the model, with solved examples before it if `shots` are given."""
        question = self.benchmark.question(example, shots)
        if self.chat:
            question = self._rendered([{"role": "user", "content": question}])
        return Asked(question + self.tie, self.cue)

    def answer_ids(self, example: Example, text: str) -> list[int]:
        """Tokens of `text` as the answer to `example`."""
        return self.model.continuation(self.ask(example).prompt, f" {text}")

    @property
    def _cue(self) -> str:
        return self.benchmark.cue.lstrip() if self.chat else self.benchmark.cue

    def _joins(self, end: str) -> bool:
        """Whether the end of a question and what follows it share a token."""
        alone = self.model.encode(end)
        return self.model.encode(end + self._cue)[: len(alone)] != alone

    def _rendered(self, turns: list[dict[str, str]], *, answered: bool = False) -> str:
        """The template's text. Of two BOS, its own and the one that the tokenizer adds, the tokenizer's is left."""
        tokenizer = self.model.tokenizer
        if not tokenizer.chat_template:
            raise BadCheckpoint(
                f"The tokenizer of {self.model.network.name_or_path or 'this model'} has no chat template; set chat = "
                "false, or name the post-trained model's tokenizer."
            )
        text: str = tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=not answered,
            enable_thinking=False,  # templates of models that can think ask for it; the others ignore it
        )
        return text.removeprefix(tokenizer.bos_token or "") if self.model.bos_ids else text
