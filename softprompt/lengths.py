"""Whether every prompt of a job, with its vectors and its answer, fits into the model's context."""

from collections.abc import Sequence

from softprompt.benchmarks import Benchmark, Example
from softprompt.chat import ask
from softprompt.controls import shuffled_answers, with_instruction
from softprompt.errors import BadBenchmark
from softprompt.models import LanguageModel
from softprompt.protocol import Protocol


def check_lengths(
    model: LanguageModel,
    benchmark: Benchmark,
    protocol: Protocol,
    shots: Sequence[Example],
    train: Sequence[Example],
    test: Sequence[Example],
) -> None:
    """Raise `BadBenchmark` for an item that does not fit into the model's context, at test or in tuning."""
    limit = model.context_length
    if limit is None:
        return
    num_front, num_new, controls = protocol.num_vectors, benchmark.max_new_tokens, protocol.controls
    longest = with_instruction(benchmark) if "instruction" in controls else benchmark

    def prompt(example: Example, shots: Sequence[Example] = (), benchmark: Benchmark = benchmark) -> str:
        return ask(model, benchmark, example, shots, chat=protocol.chat).prompt

    with_shots = num_new + (num_front if "few_shot" in controls else 0)
    asked = [(e, prompt(e, benchmark=longest), num_new + num_front) for e in test]
    shown = [(e, prompt(e, shots), with_shots) for e in test if shots]
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
                    f"for vectors and output exceed the model's context of {limit}. Lower num_shots, or leave this "
                    "benchmark out for this model."
                )
