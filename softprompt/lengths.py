"""Whether every prompt of a job, with its vectors and its answer, fits into the model's context."""

from collections.abc import Sequence
from dataclasses import replace

from softprompt.benchmarks import Example
from softprompt.controls import shuffled_answers, with_instruction
from softprompt.errors import BadBenchmark
from softprompt.protocol import Protocol
from softprompt.wording import Wording


def check_lengths(
    wording: Wording,
    protocol: Protocol,
    shots: Sequence[Example],
    train: Sequence[Example],
    test: Sequence[Example],
) -> None:
    """Raise `BadBenchmark` for an item that does not fit into the model's context, at test or in tuning."""
    model, benchmark = wording.model, wording.benchmark
    limit = model.context_length
    if limit is None:
        return
    num_front = protocol.num_vectors if {"prefix", "both"} & set(protocol.placements) else 0
    controls = protocol.controls
    longest = replace(wording, benchmark=with_instruction(benchmark)) if "instruction" in controls else wording
    cue = max((wording.cue, protocol.cue_text), key=lambda text: len(model.encode(text)))

    def prompt(example: Example, shots: Sequence[Example] = (), wording: Wording = wording) -> str:
        return wording.ask(example, shots).question + cue

    def num_new(example: Example) -> int:
        """Positions behind the prompt: of what is said, or of the longest candidate, whose last token is no input."""
        candidates = [model.encode(f" {text}") for text in (*example.options, example.answer)]
        return max(benchmark.max_new_tokens, max(map(len, candidates)) - 1)

    with_shots = num_front if "few_shot" in controls else 0
    asked = [(e, prompt(e, wording=longest), num_new(e) + num_front) for e in test]
    shown = [(e, prompt(e, shots), num_new(e) + with_shots) for e in test if shots]
    true, shuffled = [e.answer for e in train], shuffled_answers(train) if "shuffled" in controls else []
    learned = [
        (e, f"{prompt(e)} {target}", 1 + num_front)
        for e, target in [*zip(train, true, strict=True), *zip(train, shuffled, strict=False)]
    ]
    for kind, items in (("", asked), (f" with {len(shots)} shots", shown), (" with its answer", learned)):
        for example, text, num_more in items:
            length, room = len(model.encode(text)), num_more + len(model.bos_ids)
            if length + room > limit:
                raise BadBenchmark(
                    f"Benchmark {benchmark.name!r}, item {example.id}: {length} tokens{kind} and {room} "
                    f"for vectors and answer exceed the model's context of {limit}. Lower num_shots, or leave this "
                    "benchmark out for this model."
                )
