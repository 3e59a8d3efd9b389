"""Tune and evaluate: one job from a checkpoint to a result."""

import functools
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import transformers
from torch import Tensor

from softprompt import benchmarks, processes
from softprompt.benchmarks import Benchmark, Example, Rows
from softprompt.cache import Cache
from softprompt.chat import answer_ids, ask
from softprompt.checkpoints import Checkpoint, open_checkpoint
from softprompt.decode import answer
from softprompt.errors import BadBenchmark
from softprompt.metrics import Outcome, summarise
from softprompt.models import LanguageModel, load_model
from softprompt.prefill import Prefill
from softprompt.prompt import Placement, Prompt, plain_prompts
from softprompt.protocol import Protocol, Resources
from softprompt.result import CurvePoint, Job, Result
from softprompt.tune import TunedPrompt, tune

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of the whole job that is done (0 to 1)."""


def evaluate(
    checkpoint: Checkpoint | str,
    benchmark: Benchmark | str,
    protocol: Protocol | None = None,
    *,
    resources: Resources | None = None,
    rows: Rows | None = None,
    mirror: str | None = None,
    tokenizer: str | None = None,
    cache: Cache | None = None,
    progress: Progress = lambda _what, _share: None,
) -> Result:
    """Tune soft prompts for a frozen checkpoint and evaluate it under every condition of the protocol.

    Args:
        checkpoint: one found by `discover`, or the path or URL of a folder in the Hugging Face layout.
        benchmark: a declaration, or the name of one.
        protocol: everything that decides the score; the default is `Protocol()`.
        rows: the benchmark's rows, if they are at hand; else they are loaded from `mirror` or the hub.
        tokenizer: where to read the tokenizer from, if the checkpoint has none.
        cache: where to keep the copy of a remote checkpoint; the default is `Cache()`.

    Raises:
        SoftPromptError: the checkpoint or the benchmark cannot be used; the message says why and what to do. A tuning
            that diverges is no error: see `Result.diverged`.
    """
    protocol, resources = protocol or Protocol(), resources or Resources()
    if isinstance(benchmark, str):
        benchmark = benchmarks.get(benchmark)
    if isinstance(checkpoint, str):
        checkpoint = open_checkpoint(checkpoint)
    clock = Clock()
    with clock("load"):
        rows = rows or benchmarks.load(benchmark, mirror)
        shots, train, test = rows.sample(protocol)
        model = load_model(checkpoint, resources, tokenizer, cache)
    work = Evaluation(model, benchmark, protocol, resources, test, clock, progress)
    work.check_lengths(train, shots)

    outcomes = work.plain("zero_shot")
    if protocol.num_shots:
        outcomes += work.plain("few_shot", shots)
    curves, diverged, vectors = {}, {}, {}
    for name in protocol.placements:
        final, curves[name], tuned = work.soft_prompt(name, train)
        outcomes += final
        diverged[name] = tuned.diverged
        vectors[name] = tuned.vectors_SPD.cpu().numpy()

    return Result(
        job_key=Job(checkpoint, benchmark, protocol).key,
        variant=checkpoint.variant,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        benchmark=benchmark.name,
        chance=benchmark.chance,
        headline=protocol.headline,
        protocol=protocol,
        metrics={c: summarise([o for o in outcomes if o.condition == c]) for c in protocol.conditions},
        curves=curves,
        diverged=diverged,
        seconds=dict(clock.seconds),
        provenance={
            "checkpoint": checkpoint.uri,
            "checkpoint_fingerprint": checkpoint.fingerprint,
            "benchmark_fingerprint": benchmark.fingerprint,
            "protocol_fingerprint": protocol.fingerprint,
            "num_train": len(train),
            "num_test": len(test),
            "num_contaminated": rows.num_contaminated,
            "world_size": processes.world_size(),
            "device": str(model.device),
            "dtype": str(model.network.dtype).removeprefix("torch."),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        outcomes=tuple(outcomes),
        vectors=vectors,
    )


@dataclass
class Clock:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


@dataclass
class Evaluation:
    """The conditions of one job on one loaded model."""

    model: LanguageModel
    benchmark: Benchmark
    protocol: Protocol
    resources: Resources
    test: list[Example]
    clock: Clock
    progress: Progress
    num_done: int = 0

    @functools.cached_property
    def prefill(self) -> Prefill:
        return Prefill(self.model)

    def plain(self, condition: str, shots: Sequence[Example] = ()) -> list[Outcome]:
        """A condition without vectors."""
        prompts = plain_prompts(self.model, self.benchmark, self.test, shots, chat=self.protocol.chat)
        return self._outcomes(condition, prompts, None, self.test, with_scores=True)

    def soft_prompt(
        self, name: str, train: Sequence[Example]
    ) -> tuple[list[Outcome], tuple[CurvePoint, ...], TunedPrompt]:
        """Tune one placement: outcomes of the final prompts, the tuning curve, the final vectors."""
        placement = Placement(name, self.model, self.benchmark, self.protocol)
        num_asked = self.protocol.batch_size * len(self.protocol.seeds)
        steps = tune(
            self.prefill,
            self.benchmark,
            placement,
            train,
            self.protocol,
            self.resources.micro_batch,
            on_step=lambda step: self._advance(f"{name}: tuning, step {step}", num_asked),
        )
        points = []
        while True:
            with self.clock("tune"):
                tuned = next(steps)
            is_final = tuned.step == self.protocol.num_steps
            examples = self.test if is_final else self.test[: self.num_curve]
            prompts = [
                placement.prompt(example, seed) for seed in range(len(self.protocol.seeds)) for example in examples
            ]
            outcomes = self._outcomes(name, prompts, tuned.vectors_SPD, examples, with_scores=is_final)
            on_curve = {example.id for example in self.test[: self.num_curve]}
            points.append(
                CurvePoint(
                    step=tuned.step,
                    loss=sum(tuned.losses) / len(tuned.losses),
                    metrics=summarise([outcome for outcome in outcomes if outcome.item in on_curve]),
                )
            )
            if is_final:
                return outcomes, tuple(points), tuned

    def check_lengths(self, train: Sequence[Example], shots: Sequence[Example]) -> None:
        """Raise `BadBenchmark` for an item that does not fit into the model's context, at test or in tuning."""
        limit = self.model.context_length
        if limit is None:
            return
        num_front = self.protocol.num_vectors

        def prompt(example: Example, shots: Sequence[Example] = ()) -> str:
            return ask(self.model, self.benchmark, example, shots, chat=self.protocol.chat).prompt

        asked = [(e, prompt(e), self.benchmark.max_new_tokens + num_front) for e in self.test]
        shown = [(e, prompt(e, shots), self.benchmark.max_new_tokens) for e in self.test if shots]
        learned = [(e, f"{prompt(e)} {e.answer}", 1 + num_front) for e in train]
        for kind, items in (("", asked), (f" with {len(shots)} shots", shown), (" with its answer", learned)):
            for example, text, num_more in items:
                length, room = len(self.model.encode(text)), num_more + len(self.model.bos_ids)
                if length + room > limit:
                    raise BadBenchmark(
                        f"Benchmark {self.benchmark.name!r}, item {example.id}: {length} tokens{kind} and {room} "
                        f"for vectors and output exceed the model's context of {limit}. Lower num_shots, or leave this "
                        "benchmark out for this model."
                    )

    @functools.cached_property
    def num_curve(self) -> int:
        return min(self.protocol.num_curve or len(self.test), len(self.test))

    @functools.cached_property
    def num_work(self) -> int:
        """Answers that the whole job asks for or, in tuning, learns from."""
        protocol, num_test = self.protocol, len(self.test)
        num_plain = num_test * (len(protocol.conditions) - len(protocol.placements))
        num_asked = num_test + self.num_curve * (len(protocol.measured_steps) - 1)
        num_learned = protocol.batch_size * protocol.num_steps
        return num_plain + (num_asked + num_learned) * len(protocol.seeds) * len(protocol.placements)

    def _advance(self, what: str, num_more: int) -> None:
        self.num_done += num_more
        self.progress(what, min(1.0, self.num_done / self.num_work))

    def _outcomes(
        self,
        condition: str,
        prompts: Sequence[Prompt],
        vectors_SPD: Tensor | None,
        examples: Sequence[Example],
        *,
        with_scores: bool,
    ) -> list[Outcome]:
        """`prompts` are those of `examples`, once per seed, seeds outermost."""
        items = [examples[i % len(examples)] for i in range(len(prompts))]
        answers_of = {e.id: [*e.options, *([] if e.answer in e.options else [e.answer])] for e in examples}
        ids_of = {
            e.id: [
                answer_ids(self.model, self.benchmark, e, text, chat=self.protocol.chat) for text in answers_of[e.id]
            ]
            for e in examples
            if with_scores
        }
        with self.clock("answer"):
            generations, scores = answer(
                self.prefill,
                prompts,
                vectors_SPD,
                stop=self.benchmark.stop,
                max_new_tokens=self.benchmark.max_new_tokens,
                candidates=[ids_of[item.id] for item in items] if with_scores else None,
                micro_batch=self.resources.micro_batch,
                on_answers=lambda num_more: self._advance(f"{condition}: answering", num_more),
            )
        outcomes = []
        grammar = self.benchmark.grammar
        for item, prompt, generation, found in zip(items, prompts, generations, scores, strict=True):
            strict = grammar.strict(generation.text, item) if generation.stopped else None
            chosen = (
                item.options[max(range(len(item.options)), key=found.__getitem__)] if found and item.options else None
            )
            outcomes.append(
                Outcome(
                    condition=condition,
                    item=item.id,
                    seed=None if vectors_SPD is None else self.protocol.seeds[prompt.seed],
                    output=generation.text,
                    stopped=generation.stopped,
                    answer=strict,
                    correct=grammar.is_right(strict, item),
                    lenient_correct=grammar.is_right(grammar.lenient(generation.text, item), item),
                    choice_correct=None if chosen is None else grammar.is_right(chosen, item),
                    gold_bits=-found[answers_of[item.id].index(item.answer)] / math.log(2) if found else None,
                    gold_bytes=len(item.answer.encode()) if found else None,
                    group=item.group if self.benchmark.macro_average else "",
                )
            )
        return outcomes
