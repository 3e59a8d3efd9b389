"""Tune and evaluate: one job from a checkpoint to a result."""

import functools
import math
import platform
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from typing import Any

import torch
import transformers
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from softprompt import __version__, benchmarks, processes, suites
from softprompt.benchmarks import Benchmark, Example
from softprompt.cache import Cache, tokenizer_fingerprint
from softprompt.checkpoints import Checkpoint, open_checkpoint
from softprompt.conditions import Condition
from softprompt.controls import learned_task, shuffled_answers, with_instruction
from softprompt.cost import Cost
from softprompt.decode import answer
from softprompt.errors import BadBenchmark, BadStudy
from softprompt.fingerprints import fingerprint
from softprompt.lengths import check_lengths
from softprompt.loading import load_model
from softprompt.loss import shared_tokens
from softprompt.meter import Meter
from softprompt.metrics import Outcome, summarise
from softprompt.prefill import Prefill
from softprompt.progress import Progress, reporting
from softprompt.prompt import Placement, Prompt, of_seed, plain_prompts, random_vectors
from softprompt.protocol import Protocol, Resources
from softprompt.result import CurvePoint, Job, Result
from softprompt.rows import Rows, load_rows
from softprompt.tune import learned_answers, tune
from softprompt.wording import Wording

_one_at_a_time = threading.RLock()


def evaluate(
    checkpoint: Checkpoint | str | PathLike[str],
    benchmark: Benchmark | str,
    protocol: Protocol | None = None,
    *,
    resources: Resources | None = None,
    rows: Rows | None = None,
    mirror: str | PathLike[str] | None = None,
    tokenizer: str | PathLike[str] | None = None,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> Result:
    """Tune soft prompts for a frozen checkpoint and evaluate it under every condition of the protocol.

    Calls from several threads wait for one another: they may share a network, whose attention a tuning replaces.

    Args:
        checkpoint: one found by `discover`, or the path or URL of a folder in the Hugging Face layout.
        benchmark: a declaration, or the name of one.
        protocol: everything that decides the score; the default is `Protocol()`.
        resources: where it runs, which decides no score; the default is `Resources()`.
        rows: the benchmark's rows, if they are at hand; else they are loaded.
        mirror: folder to load them from; the default is `$SOFTPROMPT_MIRROR`, or else the hub.
        tokenizer: where to read the tokenizer from, if the checkpoint has none.
        cache: where to keep the copy of a remote checkpoint; the default is `Cache()`.
        progress: called with what is being done and the share of the job that is done; by default a bar is shown in a
            terminal or a notebook.

    Raises:
        SoftPromptError: the checkpoint or the benchmark cannot be used; the message says why and what to do. A tuning
            that diverges is no error: see `Result.diverged`.
    """
    _check_kinds(protocol, resources, rows)
    protocol, resources = protocol or Protocol(), resources or Resources()
    tokenizer = fspath(tokenizer) if tokenizer else None
    if isinstance(benchmark, str):
        benchmark = _named(benchmark)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = open_checkpoint(checkpoint, with_tokenizer=not tokenizer)
    benchmark = replace(benchmark, tokenizer=tokenizer_fingerprint(tokenizer, cache))
    with _one_at_a_time:
        if torch.cuda.is_initialized():  # graphs that the last job recorded lie in cycles, and have outlived it
            clear_device_cache(garbage_collection=True)
        meter = Meter()
        with meter("load"):
            rows = load_rows(benchmark, mirror) if rows is None else rows
            shots, train, test = rows.sample(protocol)
            model = load_model(checkpoint, resources, tokenizer, cache)
        wording = Wording(model, benchmark, protocol.chat)
        check_lengths(wording, protocol, shots, train, test)
        with reporting(progress, benchmark.name) as report:
            work = Evaluation(wording, protocol, resources, shots, train, test, meter, report)
            outcomes = [outcome for condition in protocol.planned for outcome in work.outcomes(condition)]
        cost = Cost.of_processes(processes.everyones(meter.cost(model)))

    return Result(
        job_key=Job(checkpoint, benchmark, protocol).key,
        variant=checkpoint.variant,
        step=checkpoint.step,
        tokens=checkpoint.tokens,
        benchmark=benchmark.name,
        chance=benchmark.chance,
        protocol=protocol,
        metrics={c: summarise([o for o in outcomes if o.condition == c]) for c in protocol.conditions},
        curves={name: tuning.curve for name, tuning in work.tunings.items()},
        diverged={name: tuning.diverged for name, tuning in work.tunings.items()},
        learned_task=learned_task(protocol.planned, outcomes),
        cost=cost,
        provenance={
            "checkpoint": checkpoint.uri,
            "checkpoint_fingerprint": checkpoint.fingerprint,
            "benchmark_fingerprint": benchmark.fingerprint,
            "rows_fingerprint": fingerprint([[asdict(each) for each in part] for part in (shots, train, test)]),
            "protocol_fingerprint": protocol.fingerprint,
            "tokenizer": tokenizer or "the checkpoint's own",
            "num_train": len(train),
            "num_test": len(test),
            "num_contaminated": rows.num_contaminated,
            "shared_tokens": ", ".join(work.shared),
            "world_size": processes.world_size(),
            "device": ", ".join(map(str, model.devices)),
            "dtype": str(model.network.dtype).removeprefix("torch."),
            "prefix_caching": work.prefill.shares_all,
            "softprompt": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        outcomes=tuple(outcomes),
        vectors={name: tuning.vectors_SPD.cpu().numpy() for name, tuning in work.tunings.items()},
    )


def _check_kinds(protocol: Any, resources: Any, rows: Any) -> None:
    """Raise `BadStudy` for an argument of another kind, such as a dict of settings or a list of rows."""
    for name, found, kind, remedy in (
        ("protocol", protocol, Protocol, "Protocol.from_dict makes one of plain values"),
        ("resources", resources, Resources, "Resources.from_dict makes one of plain values"),
        ("rows", rows, Rows, "leave it out to have them loaded"),
    ):
        if found is not None and not isinstance(found, kind):
            raise BadStudy(f"{name} is a {type(found).__name__}; expected a {kind.__name__}: {remedy}.")


def _named(name: str) -> Benchmark:
    """The benchmark of a name; a suite is several."""
    if name.startswith(suites.PREFIX):
        raise BadBenchmark(
            f"{name!r} is a suite, which a study or the command line may name; name one benchmark at a time, each of "
            f"softprompt.suites.expand([{name!r}]) for instance."
        )
    return benchmarks.get(name)


@dataclass(frozen=True)
class Tuning:
    """What is left of a tuning: the final vectors and the way to them."""

    vectors_SPD: Tensor
    curve: tuple[CurvePoint, ...]
    diverged: tuple[int, ...]


@dataclass
class Evaluation:
    """The conditions of one job on one loaded model."""

    wording: Wording
    protocol: Protocol
    resources: Resources
    shots: list[Example]
    train: list[Example]
    test: list[Example]
    meter: Meter
    progress: Progress
    tunings: dict[str, Tuning] = field(default_factory=dict)
    """By condition, of those that were asked for so far."""
    num_done: int = 0

    @functools.cached_property
    def prefill(self) -> Prefill:
        return Prefill(self.wording.model, meter=self.meter)

    @property
    def shared(self) -> list[str]:
        """What nearly all training answers have, and is learned as form; "x2" behind what they have twice."""
        targets = [example.answer for example in self.train]
        answers = learned_answers(self.wording, self.train, targets, self.protocol)
        decode = self.wording.model.tokenizer.decode
        times = dict(sorted(shared_tokens(answers)))  # of each token the last occurrence
        return sorted(repr(decode([token])) + (f" x{num}" if num > 1 else "") for token, num in times.items())

    def outcomes(self, condition: Condition) -> list[Outcome]:
        """Of all test items. A condition that takes its vectors from a tuning comes after the one tuned for them."""
        if condition.is_tuning:
            return self._tuned(condition)
        shots = self.shots if condition.words == "few_shot" else []
        if not condition.placement:
            wording = self.wording
            if condition.words == "instruction":
                wording = replace(wording, benchmark=with_instruction(wording.benchmark))
            prompts = plain_prompts(wording, self.test, shots)
            return self._outcomes(condition.name, prompts, None, self.test, with_scores=True)
        placement = self._placement(condition)
        prompts = self._prompts(placement, self.test, shots)
        if condition.vectors == "untuned":
            vectors_SPD = placement.initial_vectors(self.protocol.seeds)
        else:
            vectors_SPD = self.tunings[condition.placement].vectors_SPD
        if condition.vectors == "random":
            vectors_SPD = random_vectors(vectors_SPD, self.protocol.seeds)
        return self._outcomes(condition.name, prompts, vectors_SPD, self.test, with_scores=True)

    def _tuned(self, condition: Condition) -> list[Outcome]:
        """Tune the vectors of a condition, with its curve; outcomes of the final prompts."""
        name, placement = condition.name, self._placement(condition)
        is_shuffled = condition.vectors == "shuffled"
        num_asked = self.protocol.batch_size * len(self.protocol.seeds)
        steps = tune(
            self.prefill,
            placement,
            self.train,
            shuffled_answers(self.train) if is_shuffled else [example.answer for example in self.train],
            self.protocol,
            self.resources.micro_batch,
            on_step=lambda step: self._advance(f"{name}: tuning, step {step}", num_asked),
        )
        points = []
        while True:
            with self.meter("tune"):
                tuned = next(steps)
            is_final = tuned.step == self.protocol.num_steps
            examples = self.test if is_final else self.test[: self.num_curve]
            prompts = self._prompts(placement, examples)
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
                self.tunings[name] = Tuning(tuned.vectors_SPD, tuple(points), tuned.diverged)
                return outcomes

    def _placement(self, condition: Condition) -> Placement:
        return Placement(condition.placement, self.wording, self.protocol)

    def _prompts(
        self, placement: Placement, examples: Sequence[Example], shots: Sequence[Example] = ()
    ) -> list[Prompt]:
        """Of every seed, seeds outermost."""
        prompts = placement.prompts(examples, shots)
        return [prompt for seed in range(len(self.protocol.seeds)) for prompt in of_seed(prompts, seed)]

    @functools.cached_property
    def candidates(self) -> dict[str, dict[str, list[int]]]:
        """Of each test item the texts that are scored, its options and its answer, with their tokens."""
        return {e.id: {text: self.wording.answer_ids(e, text) for text in (*e.options, e.answer)} for e in self.test}

    @functools.cached_property
    def num_curve(self) -> int:
        return min(self.protocol.num_curve or len(self.test), len(self.test))

    @functools.cached_property
    def num_work(self) -> int:
        """Answers that the whole job asks for or, in tuning, learns from."""
        protocol, num_test = self.protocol, len(self.test)
        num_learned = protocol.batch_size * protocol.num_steps + self.num_curve * (len(protocol.measured_steps) - 1)
        return sum(
            (num_test + (num_learned if condition.is_tuning else 0))
            * (len(protocol.seeds) if condition.placement else 1)
            for condition in protocol.planned
        )

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
        benchmark = self.wording.benchmark
        items = [examples[i % len(examples)] for i in range(len(prompts))]
        generations, scores = answer(
            self.prefill,
            prompts,
            vectors_SPD,
            stop=benchmark.stop,
            max_new_tokens=benchmark.max_new_tokens,
            candidates=[list(self.candidates[item.id].values()) for item in items] if with_scores else None,
            micro_batch=self.resources.micro_batch,
            on_answers=lambda num_more: self._advance(f"{condition}: answering", num_more),
        )
        outcomes = []
        grammar = benchmark.grammar
        for item, prompt, generation, found in zip(items, prompts, generations, scores, strict=True):
            strict = grammar.strict(generation.text, item) if generation.stopped else None
            likelihoods = dict(zip(self.candidates[item.id], found, strict=True)) if with_scores else {}
            chosen = max(item.options, key=likelihoods.__getitem__) if with_scores and item.options else None
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
                    gold_bits=-likelihoods[item.answer] / math.log(2) if with_scores else None,
                    gold_bytes=len(item.answer.encode()) if with_scores else None,
                    group=item.group if benchmark.macro_average else "",
                )
            )
        return outcomes
