"""Answer grammars, as tables: an output, what the strict and the lenient reader take from it, whether that is right."""

import pytest

from softprompt.answers import (
    Grammar,
    Json,
    Letter,
    Number,
    OptionInWords,
    ReasonedNumber,
    ShortText,
    Word,
    normalised,
)
from softprompt.benchmarks import Example, get

LETTER = Example(question="?", answer="B", golds=("B",), options=("A", "B", "C", "D"))
WORDS = Example(question="?", answer="Mexico", golds=("Mexico",), options=("Mexico", "New  Mexico", "Peru", "gold"))
NUMBER = Example(question="?", answer="1200", golds=("1,200",))
NAME = Example(question="?", answer="Barack Obama", golds=("Barack Obama", "Barack H. Obama", "The President"))
DOOR = Example(question="?", answer="door", golds=("door",))
COMMAND = Example(
    question="?",
    answer='{"intent": "PlayMusic", "slots": {"artist": "Queen"}}',
    golds=('{"intent": "PlayMusic", "slots": {"artist": "Queen"}}',),
)


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        ("B", "B", "B"),
        (" B ", "B", "B"),
        ("", None, None),
        ("b", None, None),  # the grammar asks for a capital
        ("B.", None, "B"),
        ("(B)", None, "B"),
        ("B) Because", None, "B"),
        ("B and C", None, "B"),
        ("The answer is (c).", None, "C"),
        ("A is tempting, but the answer is D", None, "D"),
        ("E", None, None),  # no such option
        ("Bed", None, None),  # a letter inside a word
        ("DNA", None, None),
        ("It's the D'Arcy one", None, None),
        ("The answer is A because B is too small.", None, "A"),
        ("Option A is correct, B is not.", None, "A"),
        ("I choose A and not B", None, "A"),
        ("A is correct.", None, "A"),
    ],
)
def test_a_letter_stands_alone(output: str, strict: str | None, lenient: str | None) -> None:
    assert Letter().strict(output, LETTER) == strict
    assert Letter().lenient(output, LETTER) == lenient


@pytest.mark.parametrize("output", ["A plant needs light.", "The answer is a gas.", "It is a question of taste"])
def test_the_article_a_is_no_letter(output: str) -> None:
    assert Letter().lenient(output, LETTER) is None


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        ("Mexico", "Mexico", "Mexico"),
        (" mexico\t", "Mexico", "Mexico"),
        ("new mexico", "New  Mexico", "New  Mexico"),
        ("", None, None),
        ("Mexico.", None, "Mexico"),
        ("It is Mexico, I think", None, "Mexico"),
        ("Peru, not Mexico", None, "Peru"),  # two options: the first counts
        ("It is New Mexico", None, "New  Mexico"),  # not the 'Mexico' in it
        ("Peruvian golden things", None, None),  # options inside words
        ("Chile", None, None),
        ("Mexico Mexico", None, "Mexico"),
    ],
)
def test_an_option_in_words_is_found_as_whole_words(output: str, strict: str | None, lenient: str | None) -> None:
    assert OptionInWords().strict(output, WORDS) == strict
    assert OptionInWords().lenient(output, WORDS) == lenient


def test_case_counts_where_nothing_else_tells_options_apart() -> None:
    genes = Example(question="?", answer="Bb", golds=("Bb",), options=("BB", "Bb", "bb"))
    grammar = OptionInWords()
    for output in ("BB", "bb"):
        assert grammar.strict(output, genes) == grammar.lenient(f"It is {output}.", genes) == output
        assert not grammar.is_right(output, genes)
    assert grammar.strict(" Bb", genes) == "Bb"
    assert grammar.is_right("Bb", genes)
    assert grammar.strict("bB", genes) is None


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        ("1200", "1200", "1200"),
        (" 1,200 ", "1,200", "1,200"),
        ("-3.5", "-3.5", "-3.5"),
        (".5", ".5", ".5"),
        ("", None, None),
        ("none", None, None),
        ("$1200", None, "1200"),
        ("1200 apples", None, "1200"),
        ("1200.", None, "1200"),
        ("12,00", None, "00"),  # no thousands
        ("3 and 4 make 7.", None, "7"),  # the last one counts
        ("3 + 4", None, "4"),
    ],
)
def test_a_number_stands_bare(output: str, strict: str | None, lenient: str | None) -> None:
    assert Number().strict(output, NUMBER) == strict
    assert Number().lenient(output, NUMBER) == lenient


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        ("3 + 4 = 7\n#### 7", "7", "7"),
        ("#### 7", "7", "7"),
        ("####7 ", "7", "7"),
        ("#### -1,200", "-1,200", "-1,200"),
        ("", None, None),
        ("####", None, None),
        ("3 + 4 = 7", None, "7"),
        ("#### 7 apples", None, "7"),
        ("#### $7", None, "7"),
        ("#### 5\n#### 5", None, "5"),  # said twice is not the format
        ("#### 5\nSo 6 is left", None, "5"),  # the mark goes before the last number
    ],
)
def test_reasoning_ends_in_one_marked_number(output: str, strict: str | None, lenient: str | None) -> None:
    assert ReasonedNumber().strict(output, NUMBER) == strict
    assert ReasonedNumber().lenient(output, NUMBER) == lenient


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        (" Barack Obama", "Barack Obama", "Barack Obama"),
        ("barack obama!", "barack obama!", "Barack Obama"),
        ("It was Barack H. Obama.", "It was Barack H. Obama.", "Barack H. Obama"),
        ("", None, None),
        ("Barack\nObama", None, "Barack Obama"),
        ("I am not quite sure, but Barack Obama would be my guess.", None, "Barack Obama"),
        ("Obamas", "Obamas", "Obamas"),  # a gold inside a word is none
        ("the president Barack Obama", "the president Barack Obama", "The President"),  # of two, the first
    ],
)
def test_a_short_text_is_a_few_words_on_one_line(output: str, strict: str | None, lenient: str | None) -> None:
    assert ShortText(max_words=8).strict(output, NAME) == strict
    assert ShortText(max_words=8).lenient(output, NAME) == lenient


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles", "beatles"),
        ("AC/DC", "ac dc"),
        ("rock 'n' roll", "rock n roll"),
        ("Theatre", "theatre"),
        ("A", "a"),  # nothing would be left
        ("The The", "the the"),
        ("?!", "?!"),
    ],
)
def test_short_texts_are_compared_as_triviaqa_does(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        (" door", "door", "door"),
        ("Door", "Door", "Door"),
        ("well-known", "well-known", "well-known"),
        ("o'clock", "o'clock", "o'clock"),
        ("door.", None, "door"),
        ("the door", None, "the"),
        ("", None, None),
        ("...", None, None),
    ],
)
def test_a_word_stands_alone(output: str, strict: str | None, lenient: str | None) -> None:
    assert Word().strict(output, DOOR) == strict
    assert Word().lenient(output, DOOR) == lenient


GOLD = COMMAND.answer


@pytest.mark.parametrize(
    ("output", "strict", "lenient"),
    [
        (f" {GOLD} ", GOLD, GOLD),
        ('{"slots": {}, "intent": "GetWeather"}', '{"slots": {}, "intent": "GetWeather"}', None),
        (f"```json\n{GOLD}\n```", None, GOLD),
        (f"Sure: {GOLD}", None, GOLD),
        (f"{GOLD} {GOLD}", None, GOLD),
        ('{"intent": "PlayMusic"}', None, '{"intent": "PlayMusic"}'),
        ('{"intent": "PlayMusic", "slots": []}', None, '{"intent": "PlayMusic", "slots": []}'),
        ('{"intent": "PlayMusic", "slots": {"year": 1999}}', None, '{"intent": "PlayMusic", "slots": {"year": 1999}}'),
        ('{"intent": "X", "slots": {}, "more": 1}', None, '{"intent": "X", "slots": {}, "more": 1}'),
        ("{'intent': 'PlayMusic', 'slots': {}}", None, "{}"),  # Python, not JSON; the inner braces are
        ('{"intent": "PlayMusic", "slots": {', None, None),
        ("", None, None),
        ("[" * 100_000, None, None),
    ],
)
def test_json_fits_its_schema_and_has_nothing_around_it(output: str, strict: str | None, lenient: str | None) -> None:
    grammar = get("snips").grammar
    assert grammar.strict(output, COMMAND) == strict
    assert grammar.lenient(output, COMMAND) == (lenient or strict)


@pytest.mark.parametrize(
    ("grammar", "item", "answer", "right"),
    [
        (Letter(), LETTER, "B", True),
        (Letter(), LETTER, "A", False),
        (OptionInWords(), WORDS, "mexico", True),
        (OptionInWords(), WORDS, "New  Mexico", False),
        (Number(), NUMBER, "1200", True),  # '1,200' is 1200
        (Number(), NUMBER, "1200.0", True),
        (Number(), NUMBER, "+1,200", True),
        (Number(), NUMBER, "-1200", False),
        (Number(), NUMBER, "1200.01", False),
        (ReasonedNumber(), NUMBER, "1200", True),
        (ShortText(), NAME, "the barack obama", True),
        (ShortText(), NAME, "president", True),
        (ShortText(), NAME, "Obama", False),
        (Word(), DOOR, "Door", True),
        (Word(), DOOR, "doors", False),
        (Json({}), COMMAND, '{"slots": {"artist": "queen"}, "intent": "PlayMusic"}', True),
        (Json({}), COMMAND, '{"intent": "PlayMusic", "slots": {}}', False),
        (Json({}), COMMAND, '{"intent": "PlayMusic", "slots": {"Artist": "Queen"}}', False),  # keys are not folded
    ],
)
def test_the_right_answer_may_be_written_in_several_ways(
    grammar: Grammar, item: Example, answer: str, right: bool
) -> None:
    assert grammar.is_right(answer, item) is right


@pytest.mark.parametrize(
    "grammar", [Letter(), OptionInWords(), Number(), ReasonedNumber(), ShortText(), Word(), Json({})]
)
def test_no_answer_is_never_right(grammar: Grammar) -> None:
    assert not grammar.is_right(None, NUMBER)
