"""Tuning: PEFT's PromptTuning under the HF Trainer, as a user would put them together, and ours."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from measured import Measured, Stopwatch
from torch import Tensor
from workload import Workload

from softprompt.benchmarks import Benchmark, Example
from softprompt.meter import matrix_rate
from softprompt.models import LanguageModel
from softprompt.output_layer import IGNORED
from softprompt.packing import packing_rows
from softprompt.prefill import Prefill
from softprompt.prompt import TOKEN, Placement, Prompt, TrainingRow, plain_prompts
from softprompt.protocol import Protocol
from softprompt.tune import TunedPrompt, answer_losses, tune
from softprompt.wording import Wording

NUM_VECTORS = 10


def tune_softprompt(work: Workload, placement: str, seeds: tuple[int, ...] = (0,), num_epochs: int = 1) -> Measured:
    """As many epochs as are asked for; the last is measured."""
    model, benchmark, prefill = work.language_model, work.by_letter, Prefill(work.language_model)
    examples, watch = work.train(benchmark), Stopwatch(model.device)
    for num_steps in (1, work.num_steps * num_epochs):  # one to warm up; its memory counts, its lap does not
        steps = tuning(work, prefill, placement, seeds, num_steps, on_step=watch.lap)
        watch.start_lap()
        exhaust(steps)
    peak_bytes = watch.peak_bytes
    rows = [
        TrainingRow(
            Prompt([0] * NUM_VECTORS + ids, [*range(NUM_VECTORS), *[TOKEN] * len(ids)], head_length=NUM_VECTORS),
            learned,
        )
        for ids, learned in training_rows(model, benchmark, examples[: work.batch_size])
    ]
    vectors_SPD = first_vectors(model)[None].requires_grad_()
    with packing_rows(model, rows) as packed:
        losses_BA = answer_losses(prefill, rows, vectors_SPD, packed=packed)
    torch.autograd.backward(losses_BA.sum() / sum(len(learned) for _, learned in rows))
    assert vectors_SPD.grad is not None
    return Measured(
        seconds=watch.laps[-work.num_steps :],
        cpu_seconds=watch.cpu_laps[-work.num_steps :],
        peak_bytes=peak_bytes,
        flops=len(seeds) * tuning_flops(work, model, benchmark, examples, placement),
        matrix_rate=matrix_rate(model),
        num_items=len(seeds) * len(examples),
        outputs=vectors_SPD.grad.flatten().tolist(),
    )


def tuning(
    work: Workload,
    prefill: Prefill,
    placement: str,
    seeds: Sequence[int],
    num_steps: int,
    *,
    curve_steps: Sequence[int] = (),
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[TunedPrompt]:
    """Ready to begin: rows are read, and texts are turned into tokens when the first value is asked for."""
    model, benchmark, examples = work.language_model, work.by_letter, work.train(work.by_letter)
    protocol = Protocol(
        placements=(placement,),
        num_vectors=NUM_VECTORS,
        num_steps=num_steps,
        batch_size=work.batch_size,
        num_train=len(examples),
        seeds=tuple(seeds),
        curve_steps=tuple(curve_steps),
    )
    where, targets = Placement(placement, Wording(model, benchmark), protocol), [example.answer for example in examples]
    return tune(prefill, where, examples, targets, protocol, on_step=lambda _: on_step())


def exhaust(steps: Iterable[object]) -> None:
    for _ in steps:
        pass


def tune_peft(work: Workload) -> Measured:
    """Ten virtual tokens in front, started from the vocabulary; Trainer's own batches, padded to the longest row."""
    from peft import PromptTuningConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    model, benchmark = work.language_model, work.by_letter
    num_steps = work.peers_steps or work.num_steps
    examples = work.train(benchmark)[: num_steps * work.batch_size]
    config = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=NUM_VECTORS,
        prompt_tuning_init="SAMPLE_VOCAB",
        tokenizer_name_or_path=None,
    )
    network = get_peft_model(model.network, config)
    rows = []
    for prompt, ids in training_rows(model, benchmark, examples):
        labels = [IGNORED] * len(prompt) + ids
        rows.append({"input_ids": prompt + ids, "attention_mask": [1] * len(labels), "labels": labels})
    model.tokenizer.pad_token = model.tokenizer.pad_token or model.tokenizer.eos_token

    def run(num_steps: int, watch: Stopwatch) -> None:
        class Lap(TrainerCallback):
            def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
                watch.start_lap()

            def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
                watch.lap()

        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=work.batch_size,
                max_steps=num_steps,
                learning_rate=0.1,
                bf16=work.dtype == "bfloat16",
                use_cpu=work.device == "cpu",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            collator = DataCollatorForSeq2Seq(model.tokenizer, padding=True)
            trainer = Trainer(network, arguments, train_dataset=rows, data_collator=collator, callbacks=[Lap()])
            trainer.remove_callback(PrinterCallback)  # standard output is for the table
            trainer.train()

    watch = Stopwatch(model.device)
    run(1, watch)  # to warm up; its memory counts, its lap does not
    run(num_steps, watch)
    peak_bytes = watch.peak_bytes
    vectors = network.prompt_encoder["default"].embedding.weight
    vectors.data, vectors.grad = first_vectors(model), None
    batch = DataCollatorForSeq2Seq(model.tokenizer, padding=True)(rows[: work.batch_size]).to(model.device)
    torch.autograd.backward(network(**batch).loss)
    assert vectors.grad is not None
    return Measured(
        seconds=watch.laps[-num_steps:],
        cpu_seconds=watch.cpu_laps[-num_steps:],
        peak_bytes=peak_bytes,
        flops=tuning_flops(work, model, benchmark, examples, "prefix"),
        matrix_rate=matrix_rate(model),
        num_items=len(examples),
        outputs=vectors.grad.flatten().tolist(),
    )


def training_rows(
    model: LanguageModel, benchmark: Benchmark, examples: Sequence[Example]
) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer and terminator) as tokens."""
    wording = Wording(model, benchmark)
    prompts = plain_prompts(wording, examples)
    return [
        (prompt.ids, [*wording.answer_ids(example, example.answer), wording.terminator_id])
        for prompt, example in zip(prompts, examples, strict=True)
    ]


def first_vectors(model: LanguageModel) -> Tensor:
    return model.embed(torch.arange(300, 300 + NUM_VECTORS, device=model.device)).float()


def tuning_flops(
    work: Workload, model: LanguageModel, benchmark: Benchmark, examples: Sequence[Example], placement: str
) -> float:
    """Of an epoch. Vectors in front are read once a batch and seed; `cue` needs the way back behind its question only
    and, its questions being cached, the way forth as well."""
    rows = training_rows(model, benchmark, examples)
    num_answer = sum(len(ids) for _, ids in rows)
    if placement == "prefix":
        num_read = sum(len(prompt) for prompt, _ in rows) + len(rows) // work.batch_size * NUM_VECTORS
    else:
        num_read = len(rows) * len(model.encode(benchmark.cue))
    return 2 * model.pass_flops(num_read + num_answer - len(rows), num_answer)
