"""Benchmarks whose items are questions with options: said once, asked by letter and in words."""

import string
from collections.abc import Callable
from dataclasses import dataclass

from softprompt.answers import Letter, OptionInWords
from softprompt.benchmarks import Benchmark, Example, Row


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One item: a question, what its answer is chosen from, and the place of the right one."""

    question: str
    """With its label, as it stands in the prompt: 'Question: What gas do plants take in?'."""
    options: tuple[str, ...]
    gold: int
    id: str = ""
    group: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """The options without line breaks, which would end an answer, and without a final full stop, which datasets put
        behind one option and not behind the next."""
        return tuple(" ".join(option.split()).removesuffix(".") or option for option in self.options)

    @property
    def identity(self) -> str:
        """The question with its right answer, in whatever order and beside whatever else the answer is listed. The
        question alone would not do: 'Which of these is true?' is asked of many things."""
        return f"{self.question} {self.lines[self.gold]}"

    def by_letter(self) -> Example:
        """The options below the question; the answer is the letter of one."""
        letters = tuple(string.ascii_uppercase[: len(self.options)])
        return self._example([f"{letter}. {line}" for letter, line in zip(letters, self.lines, strict=True)], letters)

    def in_words(self) -> Example:
        """The options below the question, as by letter; the answer is one's text."""
        return self._example(["Options:", *(f"- {line}" for line in self.lines)], self.lines)

    def _example(self, listed: list[str], options: tuple[str, ...]) -> Example:
        gold = options[self.gold]
        return Example(
            question="\n".join([self.question, *listed]),
            answer=gold,
            golds=(gold,),
            options=options,
            id=self.id,
            group=self.group,
            identity=self.identity,
        )


@dataclass(frozen=True, kw_only=True)
class Choices:
    """A dataset of such items. `max_new_tokens` is for answers in words; the other settings are the benchmark's."""

    path: str
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    chance: float
    to_choice: Callable[[Row], Choice]
    max_new_tokens: int = 48
    macro_average: bool = False
    version: int = 2

    def by_letter(self, name: str) -> Benchmark:
        """Below about 1B parameters a letter measures position bias rather than knowledge: read it beside the words."""
        return self._benchmark(name, lambda row: self.to_choice(row).by_letter(), Letter(), max_new_tokens=8)

    def in_words(self, name: str) -> Benchmark:
        """Its `choice_accuracy` compares the likelihoods of the options' texts."""
        return self._benchmark(name, lambda row: self.to_choice(row).in_words(), OptionInWords(), self.max_new_tokens)

    def _benchmark(
        self,
        name: str,
        to_example: Callable[[Row], Example],
        grammar: Letter | OptionInWords,
        max_new_tokens: int,
    ) -> Benchmark:
        return Benchmark(
            name=name,
            path=self.path,
            config=self.config,
            train_split=self.train_split,
            test_split=self.test_split,
            chance=self.chance,
            to_example=to_example,
            grammar=grammar,
            max_new_tokens=max_new_tokens,
            macro_average=self.macro_average,
            version=self.version,
        )
