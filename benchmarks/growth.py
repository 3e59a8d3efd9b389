"""How time and memory grow with the number of items, question length, vocabulary and model size.

    python benchmarks/growth.py --out docs/evidence

Networks with random weights and prompts of random tokens; on two cores about three minutes. Each plot has the expected
order beside it: the FLOPs that the work needs, drawn through the middle measurement.
"""

import argparse
import ctypes
import datetime
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import torch
from measured import Stopwatch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.packing import packing_rows
from softprompt.prefill import Prefill
from softprompt.prompt import TOKEN, Prompt, TrainingRow
from softprompt.tune import answer_losses
from softprompt.world.facts import World
from softprompt.world.pretrain import learn_tokenizer

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogFormatter

NUM_VECTORS, BATCH, NUM_ANSWER, NUM_NEW, MICRO_BATCH = 10, 8, 3, 4, 32
NUM_REPEATS = 3


@dataclass(frozen=True)
class Setting:
    num_items: int = 64
    length: int = 64
    """Tokens of a question."""
    vocabulary: int = 8_192
    width: int = 256
    num_layers: int = 4

    def model(self, tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=3 * self.width,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.width // 64,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        network = AutoModelForCausalLM.from_config(config)
        return LanguageModel(network.eval().requires_grad_(False), tokenizer)

    def prompts(self, num: int) -> list[Prompt]:
        ids = torch.randint(300, 1_000, (num, self.length), generator=torch.Generator().manual_seed(0)).tolist()
        front = list(range(NUM_VECTORS))
        return [Prompt([0] * NUM_VECTORS + row, front + [TOKEN] * self.length, head_length=NUM_VECTORS) for row in ids]


AXES: dict[str, list[Setting]] = {
    "num_items": [Setting(num_items=n) for n in (32, 64, 128, 256, 512)],
    "length": [Setting(length=n) for n in (32, 64, 128, 256, 512, 1024)],
    "vocabulary": [Setting(vocabulary=n) for n in (2_048, 8_192, 32_768, 131_072, 262_144)],
    "width": [Setting(width=n) for n in (64, 128, 256, 512, 1024)],
    "num_layers": [Setting(num_layers=n) for n in (2, 4, 8, 16, 32)],
}


def expected_flops(setting: Setting) -> tuple[float, float]:
    """(of a tuning step, of answering all items): matrix products and attention, vectors in front read once."""
    body = 13 * setting.width**2 * setting.num_layers
    head = setting.vocabulary * setting.width
    pairs = 4 * setting.width * setting.num_layers * (setting.length + NUM_VECTORS)  # queries with keys, with values
    num_learned = BATCH * (setting.length + NUM_ANSWER - 1) + NUM_VECTORS
    num_read = setting.num_items * (setting.length + NUM_NEW - 1)
    return (
        num_learned * (4 * body + 3 * pairs) + 4 * head * BATCH * NUM_ANSWER,
        num_read * (2 * body + pairs) + 2 * head * setting.num_items * NUM_NEW,
    )


def tuning_step(model: LanguageModel, setting: Setting) -> Callable[[], None]:
    """A step's forward and backward pass: a batch of 8, full gradient."""
    rows = [TrainingRow(prompt, list(range(2, 2 + NUM_ANSWER))) for prompt in setting.prompts(BATCH)]
    vectors_SPD = torch.randn(1, NUM_VECTORS, setting.width).mul(0.02).requires_grad_()

    def step() -> None:
        with packing_rows(model, rows) as packed:
            torch.autograd.backward(answer_losses(Prefill(model), rows, vectors_SPD, packed=packed).sum())

    return step


def answering(model: LanguageModel, setting: Setting) -> Callable[[], object]:
    """All items, four new tokens each."""
    vectors_SPD = torch.randn(1, NUM_VECTORS, setting.width).mul(0.02)
    prompts = setting.prompts(setting.num_items)
    run = partial(answer, max_new_tokens=NUM_NEW, micro_batch=MICRO_BATCH)
    return lambda: run(Prefill(model), prompts, vectors_SPD)


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Median CPU seconds, and peak bytes above what was held before."""
    seconds, peaks = [], []
    for _ in range(NUM_REPEATS):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
        watch = Stopwatch(torch.device("cpu"))
        work()
        watch.lap()
        seconds.append(watch.cpu_laps[0])
        peaks.append(watch.peak_bytes)
    return statistics.median(seconds), statistics.median(peaks)


def measure_axis(settings: list[Setting], tokenizer: PreTrainedTokenizerFast) -> list[list[tuple[float, float]]]:
    """For each setting, (seconds, bytes) of a tuning step and of answering."""
    found = []
    for setting in settings:
        model = setting.model(tokenizer)
        found.append([measure(make(model, setting)) for make in (tuning_step, answering)])
    return found


def plot(axis: str, found: list[list[tuple[float, float]]], panels: tuple[plt.Axes, plt.Axes]) -> str:
    """Draw one row of panels; returns a row of the page's table for each kind of work."""
    settings = AXES[axis]
    sizes = [getattr(setting, axis) for setting in settings]
    lines = []
    for kind, (name, colour) in enumerate((("tuning step", "tab:blue"), ("answering all items", "tab:orange"))):
        seconds, peaks = ([one[kind][i] for one in found] for i in (0, 1))
        flops = [expected_flops(setting)[kind] for setting in settings]
        middle = len(settings) // 2
        panels[0].plot(sizes, seconds, "o", color=colour, label=name)
        panels[0].plot(sizes, [f * seconds[middle] / flops[middle] for f in flops], color=colour, label="expected")
        panels[1].plot(sizes, [peak / 1e6 for peak in peaks], "o-", color=colour, label=name)
        lines.append(
            f"| {axis} {sizes[0]:,} to {sizes[-1]:,} | {name} | x {flops[-1] / flops[0]:.1f} "
            f"| x {seconds[-1] / seconds[0]:.1f} | {peaks[0] / 1e6:.0f} to {peaks[-1] / 1e6:.0f} |"
        )
    for panel, label in zip(panels, ("CPU seconds", "peak memory above the model, MB"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel=label)
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize="x-small")
        panel.set_xticks([], minor=True)
        for formatter in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            formatter(LogFormatter(minor_thresholds=(2, 0.4)))  # few labels where there are decades to label
    panels[0].legend(fontsize="x-small")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"), help="growth.md and growth.svg go here")
    out = parser.parse_args().out
    tokenizer = learn_tokenizer(World(0))
    figure, panels = plt.subplots(len(AXES), 2, figsize=(9, 3 * len(AXES)), layout="constrained")
    rows = [plot(axis, measure_axis(AXES[axis], tokenizer), row) for axis, row in zip(AXES, panels, strict=True)]
    figure.savefig(out / "growth.svg")
    page = [
        "# Growth",
        "",
        f"{datetime.date.today()}, `python benchmarks/growth.py`, {torch.get_num_threads()} threads. CPU seconds, the",
        f"median of {NUM_REPEATS}; expected is how the FLOPs grow that the work needs. What is not varied is as in",
        f"`{Setting()}`.",
        "",
        "| from, to | work | expected (FLOPs) | measured | peak memory above the model, MB |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
        "![Seconds and memory against each size](growth.svg)",
        "",
    ]
    (out / "growth.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()
