"""Answer grammars: which outputs follow the format, and what a kind reader would take from any output.

A grammar answers three questions about one item: does the output match the grammar in full, and which answer does it
then give (`strict`); which answer would a fixed flexible extractor find (`lenient`); is that answer right (`is_right`).
"""

import functools
import json
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_VERB_OR_LINK = "is|was|and|or|because|since|as|but|not|that|would|will|can|has|in|for|to|if"
"""What follows the letter A and, but in rare sentences, no article."""
_PUNCTUATION = frozenset(string.punctuation + "‘’´`")


class Item(Protocol):
    """What a grammar needs to know of an example."""

    @property
    def golds(self) -> tuple[str, ...]: ...

    @property
    def options(self) -> tuple[str, ...]: ...


class Grammar(Protocol):
    """See the module's docstring. `output` is the text up to the clean stop, stop string excluded."""

    @property
    def instruction(self) -> str:
        """The format as one would ask for it in words: the control that vectors are held against. Raise the number in
        `Protocol.fingerprint` with any change of its words."""

    def strict(self, output: str, item: Item) -> str | None: ...

    def lenient(self, output: str, item: Item) -> str | None: ...

    def is_right(self, answer: str | None, item: Item) -> bool: ...


def spaced(text: str) -> str:
    """Fold white space, so that 'New  York ' equals 'New York'."""
    return " ".join(text.split())


def fold(text: str) -> str:
    """Fold case and white space, so that 'New  York ' equals 'new york'."""
    return spaced(text.casefold())


@dataclass(frozen=True)
class Letter:
    """One capital letter out of the item's options: 'B'."""

    instruction = "Answer with the letter of the right option and nothing else."

    def strict(self, output: str, item: Item) -> str | None:
        answer = output.strip()
        return answer if answer in item.options else None

    def lenient(self, output: str, item: Item) -> str | None:
        """The letter after 'answer is', else the first capital that stands alone; the article in 'A plant' is none."""
        letters = "".join(item.options)
        article = rf"(?<=A) (?!(?:{_VERB_OR_LINK})\b)[a-z]"
        alone = rf"(?<![\w'])([{letters}])(?![\w'])(?!{article})"
        stated = re.search(rf"(?i:answer(?: is)?:?)\s*(?i:\(([{letters}])\)|(?-i:{alone}))", output)
        found = stated or re.search(alone, output)
        return next(group for group in found.groups() if group).upper() if found else None

    def is_right(self, answer: str | None, item: Item) -> bool:
        return answer is not None and answer in item.golds


@dataclass(frozen=True)
class OptionInWords:
    """The text of one of the item's options and nothing else: 'oxygen'. Case counts only where nothing else tells two
    options apart: 'Bb' and 'bb'."""

    instruction = "Answer with the right option in its own words and nothing else."

    def strict(self, output: str, item: Item) -> str | None:
        read = _reading(item)
        answer = read(output)
        return next((option for option in item.options if read(option) == answer), None)

    def lenient(self, output: str, item: Item) -> str | None:
        """The option mentioned first as whole words; of two that start together, the longer."""
        read = _reading(item)
        text = read(output)
        found = [
            (match.start(), -len(option), option)
            for option in item.options
            if (words := read(option)) in text  # or making thousands of patterns would take most of a check's time
            and (match := re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text))
        ]
        return min(found)[2] if found else None

    def is_right(self, answer: str | None, item: Item) -> bool:
        read = _reading(item)
        return answer is not None and read(answer) in map(read, item.golds)


@dataclass(frozen=True)
class Number:
    """A bare number: '42', '-3.5', '1,200'."""

    instruction = "Answer with one number in digits and nothing else."

    def strict(self, output: str, item: Item) -> str | None:
        answer = output.strip()
        return answer if _NUMBER.fullmatch(answer) else None

    def lenient(self, output: str, item: Item) -> str | None:
        """The last number in the text, as the flexible extractors of GSM8K harnesses take it."""
        numbers = _NUMBER.findall(output)
        return numbers[-1] if numbers else None

    def is_right(self, answer: str | None, item: Item) -> bool:
        return answer is not None and _value(answer) in {_value(gold) for gold in item.golds}


@dataclass(frozen=True)
class ReasonedNumber(Number):
    """Free reasoning that ends in a line '#### n' (GSM8K)."""

    instruction = "Reason step by step, then end with a line '#### n' where n is the answer in digits."

    def strict(self, output: str, item: Item) -> str | None:
        match = re.fullmatch(rf"(?s:.*)####\s*({_NUMBER.pattern})", output.strip())
        return match.group(1) if match and output.count("####") == 1 else None

    def lenient(self, output: str, item: Item) -> str | None:
        match = re.search(rf"####\s*\$?({_NUMBER.pattern})", output)
        return match.group(1) if match else Number.lenient(self, output, item)


@dataclass(frozen=True)
class ShortText:
    """A few words on one line: 'Barack Obama'. Golds are compared as TriviaQA's own script does: see `normalised`."""

    max_words: int = 10

    @property
    def instruction(self) -> str:
        return f"Answer with at most {self.max_words} words on one line and nothing else."

    def strict(self, output: str, item: Item) -> str | None:
        answer = output.strip()
        is_short = 1 <= len(answer.split()) <= self.max_words
        return answer if is_short and "\n" not in answer else None

    def lenient(self, output: str, item: Item) -> str | None:
        """The gold that stands in the output as whole words; of several, the first. Else the output itself."""
        text = f" {normalised(output)} "
        found = [(place, gold) for gold in item.golds if (place := text.find(f" {normalised(gold)} ")) >= 0]
        return min(found)[1] if found else output.strip() or None

    def is_right(self, answer: str | None, item: Item) -> bool:
        return answer is not None and normalised(answer) in map(normalised, item.golds)


@dataclass(frozen=True)
class Word:
    """One word and nothing else: 'signs', "o'clock", 'well-known' (LAMBADA)."""

    instruction = "Answer with a single word and nothing else."

    def strict(self, output: str, item: Item) -> str | None:
        match = _WORD.fullmatch(output.strip())
        return match.group() if match else None

    def lenient(self, output: str, item: Item) -> str | None:
        """The first word."""
        match = _WORD.search(output)
        return match.group() if match else None

    def is_right(self, answer: str | None, item: Item) -> bool:
        return answer is not None and fold(answer) in map(fold, item.golds)


@dataclass(frozen=True)
class Json:
    """A JSON value that fits a JSON Schema, nothing around it. Right is a gold's value; texts are folded."""

    schema: dict[str, Any] = field(hash=False)

    @property
    def instruction(self) -> str:
        return f"Answer with JSON that fits this schema and nothing else: {json.dumps(self.schema)}"

    @functools.cached_property
    def validator(self) -> Any:
        import jsonschema

        return jsonschema.Draft202012Validator(self.schema)

    def strict(self, output: str, item: Item) -> str | None:
        try:
            value = json.loads(output)
        except (ValueError, RecursionError):
            return None
        return output.strip() if self.validator.is_valid(value) else None

    def lenient(self, output: str, item: Item) -> str | None:
        """The first JSON object in the output, whatever stands around it and whether or not it fits the schema."""
        for brace in re.finditer(r"\{", output):
            try:
                _, length = json.JSONDecoder().raw_decode(output[brace.start() :])
            except (ValueError, RecursionError):
                continue
            return output[brace.start() : brace.start() + length]
        return None

    def is_right(self, answer: str | None, item: Item) -> bool:
        return answer is not None and _folded(json.loads(answer)) in [_folded(json.loads(g)) for g in item.golds]


def normalised(text: str) -> str:
    """`text` without case, punctuation, articles and surplus space, as the official TriviaQA evaluation compares it.

    A text of which nothing would be left ('The The', '?!') is folded only.
    """
    words = "".join(" " if character in _PUNCTUATION else character for character in text.lower())
    return spaced(re.sub(r"\b(a|an|the)\b", " ", words)) or fold(text)


def _reading(item: Item) -> Callable[[str], str]:
    """How texts are compared with the item's options: folded, unless that makes two of them one."""
    return fold if len(set(map(fold, item.options))) == len(set(map(spaced, item.options))) else spaced


def _value(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def _folded(value: Any) -> Any:
    """A JSON value with every text in it folded; keys stay as they are."""
    if isinstance(value, dict):
        return {key: _folded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_folded(inner) for inner in value]
    return fold(value) if isinstance(value, str) else value
