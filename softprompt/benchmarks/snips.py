"""SNIPS: what a spoken command wants, as JSON with exactly the keys intent and slots: a constraint on form.

Dataset: https://github.com/sonos/nlu-benchmark (2017-06-custom-intent-engines), CC0, as rows of `text` and `json`.
Paper: Coucke et al., "Snips Voice Platform", arXiv:1805.10190.
Quirks: the hub has only its intents, so the rows come from a mirror: `sonos/snips/{train,test}-*.parquet`, `json` being
{"intent": name, "slots": {slot: words of the text}}. The seven intents follow one another in the test split; they take
turns here. Neither intents nor slots are named in the prompt: the tuning has to teach them as well.
"""

import json

from softprompt.answers import Json
from softprompt.benchmarks import Benchmark, Example, Row

SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"type": "string"},
        "slots": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "required": ["intent", "slots"],
    "additionalProperties": False,
}


def to_example(row: Row) -> Example:
    return Example(
        question=f"Command: {row['text'].strip()}",
        answer=row["json"],
        golds=(row["json"],),
        group=json.loads(row["json"])["intent"],
    )


BENCHMARK = Benchmark(
    name="snips",
    path="sonos/snips",
    to_example=to_example,
    grammar=Json(SCHEMA),
    cue="\nJSON:",
    max_new_tokens=128,
)
