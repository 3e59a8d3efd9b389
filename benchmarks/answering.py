"""Answering greedily and scoring options: lm-evaluation-harness and ours."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from measured import Measured, Stopwatch
from workload import Workload

from softprompt.benchmarks import Benchmark, Example
from softprompt.decode import answer
from softprompt.meter import matrix_rate
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import Prompt, plain_prompts
from softprompt.wording import Wording

NUM_WARM_UP = 32
"""Items, before the clock runs."""


def answer_softprompt(work: Workload, num_shots: int = 0) -> Measured:
    prompts, stop, most = asked(work, num_shots)
    model = work.language_model
    run = partial(answer, stop=stop, max_new_tokens=most)
    watch = Stopwatch(model.device)
    run(Prefill(model), prompts[:NUM_WARM_UP])
    watch.start_lap()
    generations, _ = run(Prefill(model), prompts)
    watch.lap()
    texts = [generation.text for generation in generations]
    return measured(watch, model, answering_flops(model, prompts, texts, most), texts)


def answer_lm_eval(work: Workload, num_shots: int = 0) -> Measured:
    from lm_eval.api.instance import Instance

    prompts, stop, most = asked(work, num_shots)
    model, texts = work.language_model, asked_texts(work, num_shots)
    settings = {"until": list(stop), "max_gen_toks": most, "do_sample": False}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(text, settings), idx=i)
        for i, text in enumerate(texts)
    ]
    harness = _harness(work)
    watch = Stopwatch(model.device)
    harness.generate_until(requests[:NUM_WARM_UP], disable_tqdm=True)
    watch.start_lap()
    found = harness.generate_until(requests, disable_tqdm=True)
    watch.lap()
    return measured(watch, model, answering_flops(model, prompts, found, most), list(found))


def score_softprompt(work: Workload) -> Measured:
    """Log-likelihoods of every option's text."""
    model, benchmark = work.language_model, work.in_words
    examples = work.test(benchmark)
    prompts = plain_prompts(Wording(model, benchmark), examples)
    candidates = option_ids(model, benchmark, examples)
    run = partial(answer, max_new_tokens=0)
    watch = Stopwatch(model.device)
    run(Prefill(model), prompts[:NUM_WARM_UP], candidates=candidates[:NUM_WARM_UP])
    watch.start_lap()
    _, scores = run(Prefill(model), prompts, candidates=candidates)
    watch.lap()
    return measured(watch, model, scoring_flops(model, prompts, candidates), scores)


def score_lm_eval(work: Workload) -> Measured:
    from lm_eval.api.instance import Instance

    model, benchmark = work.language_model, work.in_words
    examples = work.test(benchmark)
    pairs = [(benchmark.prompt(e), f" {option}") for e in examples for option in e.options]
    requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    harness = _harness(work)
    watch = Stopwatch(model.device)
    harness.loglikelihood(requests[:NUM_WARM_UP], disable_tqdm=True)
    watch.start_lap()
    found = iter(harness.loglikelihood(requests, disable_tqdm=True))
    watch.lap()
    prompts = plain_prompts(Wording(model, benchmark), examples)
    flops = scoring_flops(model, prompts, option_ids(model, benchmark, examples))
    return measured(watch, model, flops, [[next(found)[0] for _ in e.options] for e in examples])


def measured(watch: Stopwatch, model: LanguageModel, flops: float, outputs: list[Any]) -> Measured:
    """Of one lap over all items, an output each."""
    return Measured(
        seconds=watch.laps,
        cpu_seconds=watch.cpu_laps,
        peak_bytes=watch.peak_bytes,
        flops=flops,
        matrix_rate=matrix_rate(model),
        num_items=len(outputs),
        outputs=outputs,
    )


def option_ids(model: LanguageModel, benchmark: Benchmark, examples: Sequence[Example]) -> list[list[list[int]]]:
    wording = Wording(model, benchmark)
    return [[wording.answer_ids(e, option) for option in e.options] for e in examples]


def asked(work: Workload, num_shots: int) -> tuple[list[Prompt], tuple[str, ...], int]:
    """Prompts, stop strings, most new tokens."""
    benchmark = work.by_letter
    shots = work.train(benchmark)[:num_shots]
    prompts = plain_prompts(Wording(work.language_model, benchmark), work.test(benchmark), shots)
    return prompts, benchmark.stop, benchmark.max_new_tokens


def asked_texts(work: Workload, num_shots: int) -> list[str]:
    benchmark = work.by_letter
    shots = work.train(benchmark)[:num_shots]
    return [benchmark.prompt(example, shots) for example in work.test(benchmark)]


def answering_flops(model: LanguageModel, prompts: Sequence[Prompt], texts: Sequence[str], most: int) -> float:
    """What prompts begin with alike counts once."""
    num_common = prompts[0].head_length if len({tuple(p.head.ids) for p in prompts}) == 1 else 0
    num_read = sum(map(len, prompts)) - (len(prompts) - 1) * num_common
    num_new = sum(min(most, 1 + len(model.encode(text))) for text in texts)
    return model.pass_flops(num_read + num_new - len(prompts), num_new)


def scoring_flops(
    model: LanguageModel, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Sequence[int]]]
) -> float:
    lengths = [len(ids) for found in candidates for ids in found]
    num_more = sum(lengths) - len(lengths)
    return model.pass_flops(sum(map(len, prompts)) + num_more, len(prompts) + num_more)


def _harness(work: Workload) -> Any:
    from lm_eval.models.huggingface import HFLM

    model = work.language_model
    return HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=work.peers_batch)
