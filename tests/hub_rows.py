"""A few rows in the schema of each dataset that the mirror of real rows lacks; all but the field names is made up."""

from typing import Any

Rows = list[dict[str, Any]]

OPTIONS = {"text": ["oxygen", "carbon dioxide", "helium"], "label": ["1", "2", "3"]}
ARC: Rows = [
    {"id": "a1", "question": "Which gas do plants take in?", "choices": OPTIONS, "answerKey": "2"},
    {"id": "a2", "question": "Which gas makes balloons rise?", "choices": OPTIONS, "answerKey": "3"},
]
OPEN_BOOK: Rows = [
    {
        "id": "o1",
        "question_stem": "A magnet would attract",
        "choices": {"text": ["a plastic spoon", "an iron nail"], "label": ["A", "B"]},
        "answerKey": "B",
    }
]
HELLASWAG: Rows = [
    {
        "ind": number,
        "activity_label": "Washing dishes",
        "ctx_a": "A man fills the sink [title] with water.",
        "ctx_b": "he",
        "ctx": f"A man fills sink {number} with water. [step] He",
        "endings": ["flies to the moon.", "scrubs a plate [substeps] with a sponge.", "sings.", "sells it."],
        "source_id": source,
        "split": "val",
        "split_type": "indomain",
        "label": "1",
    }
    for number, source in enumerate(("activitynet~v_1", "activitynet~v_2", "activitynet~v_3", "wikihow~4"))
]
PIQA: Rows = [{"goal": "Cool soup quickly", "sol1": "Put it in the oven.", "sol2": "Stir in an ice cube.", "label": 1}]
SIQA: Rows = [
    {
        "context": "Robin dropped a glass.",
        "question": "What will Robin want to do next?",
        "answerA": "sweep the floor",
        "answerB": "sing a song",
        "answerC": "paint a wall",
        "label": "1",
    }
]
WINOGRANDE: Rows = [
    {
        "sentence": "The cup did not fit into the box because the _ was too small.",
        "option1": "cup",
        "option2": "box",
        "answer": "2",
    }
]
BOOLQ: Rows = [
    {"question": "is the sky green", "answer": False, "passage": "The sky is blue."},
    {"question": "is the sky blue", "answer": True, "passage": "The sky is blue."},
]
TRIVIA: Rows = [
    {
        "question": " Which city is the capital of Norway? ",
        "question_id": "tc_1",
        "question_source": "a quiz",
        "entity_pages": {"doc_source": [], "filename": [], "title": [], "wiki_context": []},
        "search_results": {"description": [], "filename": [], "rank": [], "title": [], "url": []},
        "answer": {
            "aliases": ["Oslo", "Kristiania", "The City of Oslo", ""],
            "normalized_aliases": ["oslo", "kristiania", "city of oslo"],
            "matched_wiki_entity_name": "",
            "normalized_matched_wiki_entity_name": "",
            "normalized_value": "oslo",
            "type": "WikipediaEntity",
            "value": "OSLO",
        },
    },
]
LAMBADA: Rows = [
    {"text": "she opened the drawer , took the key and walked to the locked door", "domain": None},
    {"text": "`` he said he would come , '' she said , `` but he did n't", "domain": None},
]


def _other(rows: Rows, field: str) -> Rows:
    """The same rows asking something else: another split."""
    return [{**row, field: f"Now, {row[field]}"} for row in rows]


SPLITS: dict[str, dict[str, Rows]] = {
    "arc_challenge": {"train": _other(ARC, "question"), "test": ARC},
    "openbookqa": {"train": _other(OPEN_BOOK, "question_stem"), "test": OPEN_BOOK},
    "hellaswag": {"train": _other(HELLASWAG, "ctx"), "validation": HELLASWAG},
    "piqa": {"train": _other(PIQA, "goal"), "validation": PIQA},
    "siqa": {"train": _other(SIQA, "context"), "validation": SIQA},
    "winogrande": {"train": _other(WINOGRANDE, "sentence"), "validation": WINOGRANDE},
    "boolq": {"train": _other(BOOLQ, "passage"), "validation": BOOLQ},
    "trivia_qa": {"train": _other(TRIVIA, "question"), "validation": TRIVIA},
    "lambada": {"validation": _other(LAMBADA, "text"), "test": LAMBADA},
}
"""Benchmark -> split -> rows; the form in words reads the same ones."""

PROMPTS = {
    "arc_challenge": (
        "Question: Which gas do plants take in?\nA. oxygen\nB. carbon dioxide\nC. helium\nAnswer:",
        "B",
    ),
    "arc_challenge_words": (
        "Question: Which gas do plants take in?\nOptions:\n- oxygen\n- carbon dioxide\n- helium\nAnswer:",
        "carbon dioxide",
    ),
    "openbookqa": ("Question: A magnet would attract\nA. a plastic spoon\nB. an iron nail\nAnswer:", "B"),
    "hellaswag": (
        "Context: Washing dishes: A man fills sink 0 with water. He\nQuestion: How does it go on?\n"
        "A. flies to the moon\nB. scrubs a plate with a sponge\nC. sings\nD. sells it\nAnswer:",
        "B",
    ),
    "piqa_words": (
        "Goal: Cool soup quickly\nOptions:\n- Put it in the oven\n- Stir in an ice cube\nAnswer:",
        "Stir in an ice cube",
    ),
    "siqa": (
        "Context: Robin dropped a glass.\nQuestion: What will Robin want to do next?\n"
        "A. sweep the floor\nB. sing a song\nC. paint a wall\nAnswer:",
        "A",
    ),
    "winogrande_words": (
        "Sentence: The cup did not fit into the box because the _ was too small.\n"
        "Question: What fills the blank?\nOptions:\n- cup\n- box\nAnswer:",
        "box",
    ),
    "boolq": ("Passage: The sky is blue.\nQuestion: is the sky green?\nAnswer:", "no"),
    "trivia_qa": ("Question: Which city is the capital of Norway?\nAnswer:", "OSLO"),
    "lambada": (
        "Which word comes next?\n\n"
        "Passage: she opened the drawer , took the key and walked to the locked ...\nNext word:",
        "door",
    ),
}
"""Benchmark -> prompt and answer of the first test item."""
