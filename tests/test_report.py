import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from softprompt.arm import Arm
from softprompt.cost import Cost, Phase
from softprompt.errors import BadStudy
from softprompt.figures import in_style, learning_figure, looks_of
from softprompt.metrics import Estimate, Outcome, summarise
from softprompt.protocol import Protocol
from softprompt.ranking import rank
from softprompt.report import write_report
from softprompt.result import CurvePoint, Result

PROTOCOL = Protocol(num_steps=20, curve_steps=(0, 10, 20), seeds=(0, 1))
BENCHMARKS = ("capitals", "rivers")


def outcomes(condition: str, knows: float, follows: float, num_items: int = 40) -> list[Outcome]:
    """The first items are known, and every other so many follow the format."""
    seeds = PROTOCOL.seeds if condition in PROTOCOL.placements else (None,)
    return [
        Outcome(
            condition=condition,
            item=f"test-{i}",
            seed=seed,
            output="Oslo" if (7 * i) % num_items < follows * num_items else "It is Oslo.",
            stopped=True,
            answer="Oslo" if (7 * i) % num_items < follows * num_items else None,
            correct=i < knows * num_items and (7 * i) % num_items < follows * num_items,
            lenient_correct=i < knows * num_items,
            gold_bits=4 - 3 * knows,
            gold_bytes=4,
        )
        for seed in seeds
        for i in range(num_items)
    ]


def result(
    variant: str, knows: float, *, benchmark: str = BENCHMARKS[0], step: int = 100, follows: float = 0.1
) -> Result:
    """A variant that knows so much, and before the tuning follows the format so often; afterwards almost always."""
    share = {"zero_shot": follows, "few_shot": min(1.0, follows + 0.2), "cue": 0.98, "prefix": 0.96}
    found = {condition: outcomes(condition, knows, share[condition]) for condition in PROTOCOL.conditions}
    return Result(
        job_key=f"job-{variant}-{step}-{benchmark}",
        variant=variant,
        step=step,
        tokens=None,
        benchmark=benchmark,
        chance=0.0,
        protocol=PROTOCOL,
        metrics={condition: summarise(some) for condition, some in found.items()},
        curves={
            placement: tuple(
                CurvePoint(step=s, loss=1.0, metrics=summarise(outcomes(placement, knows, following)))
                for s, following in zip(PROTOCOL.measured_steps, (follows, 0.97, 0.98), strict=True)
            )
            for placement in PROTOCOL.placements
        },
        diverged={},
        cost=Cost(phases={"tune": Phase(seconds=1.5), "decode": Phase(seconds=2.5)}),
        provenance={"torch": "2.9.0", "num_test": 40},
        outcomes=tuple(outcome for some in found.values() for outcome in some),
    )


def study(variants: dict[str, float], steps: Sequence[int] = (100, 200)) -> list[Result]:
    return [
        result(variant, knows * step / max(steps), benchmark=benchmark, step=step)
        for variant, knows in variants.items()
        for step in steps
        for benchmark in BENCHMARKS
    ]


class Page(HTMLParser):
    """A report as a browser reads it: text, tags, ids, what it refers to. Tags must be well nested."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.text, self.open = "", ["page"]
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: set[str] = set()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.references.add(value or "")
            self.references.update(re.findall(r"url\((.*?)\)", value or ""))

    def handle_endtag(self, tag: str) -> None:
        opened = self.open.pop()
        assert opened == tag, f"</{tag}> at {self.getpos()} closes <{opened}>"

    def handle_data(self, data: str) -> None:
        self.text += data


def write(folder: Path, results: Sequence[Result], truth: dict[str, dict[int, float]] | None = None) -> Page:
    arm = Arm.of("nightly", results, BENCHMARKS)
    return Page(write_report([arm], folder / "report.html", title="Nightly", truth=truth))


def test_the_page_says_all_that_the_ranking_says(tmp_path: Path) -> None:
    results = study({"dense": 0.9, "moe": 0.5, "moe-wide": 0.48})
    page = write(tmp_path, results)
    sentences = rank(results, BENCHMARKS).sentences()
    assert all(sentence in page.text for sentence in sentences)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "is ahead of" in page.text
    assert "not distinguishable yet" in page.text


def test_commands_in_sentences_are_set_as_code(tmp_path: Path) -> None:
    arm = Arm.of("nightly", study({"dense": 0.9, "moe": 0.5}), BENCHMARKS)
    arm = replace(arm, ranking=replace(arm.ranking, notes=("C <came late>; see `--step <N>`",)))
    text = write_report([arm], tmp_path / "report.html", title="Nightly").read_text()
    assert "C &lt;came late&gt;; see <code>--step &lt;N&gt;</code>" in text


def test_the_page_loads_nothing_and_its_figures_do_not_share_ids(tmp_path: Path) -> None:
    page = write(tmp_path, study({"dense": 0.9, "moe": 0.5}))
    assert page.tags["svg"] == 5
    assert page.references <= {f"#{name}" for name in page.ids}
    assert max(page.ids.values()) == 1
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert "@import" not in page.source


def test_truth_is_a_column_and_dashed_lines(tmp_path: Path) -> None:
    results = study({"dense": 0.9, "moe": 0.5})
    without, page = write(tmp_path, results), write(tmp_path, results, {"dense": {100: 0.31, 200: 0.87}})
    assert "<td>0.87</td>" in page.source
    assert page.source.count("stroke-dasharray") == without.source.count("stroke-dasharray") + 1
    assert "known share" not in without.text


def test_learned_task_is_told_from_learned_format(tmp_path: Path) -> None:
    assert "Format, or the task?" not in write(tmp_path, study({"dense": 0.9})).text
    taught, level = Estimate(0.031, 40, 0.012, 0.050), Estimate(0.002, 40, -0.01, 0.014)
    results = [
        replace(r, learned_task={"cue": {"choice_accuracy": taught if r.variant == "moe" else level}})
        for r in study({"dense": 0.9, "moe": 0.5}, steps=[100])
    ]
    page = write(tmp_path, results)
    assert "In 2 of 4 jobs true answers beat shuffled ones and the plain prompt" in page.text
    assert page.source.count('<td class="strong">0.031<span class="interval">0.012 to 0.050</span>') == 2
    assert (
        "moe: true answers beat shuffled ones and the plain prompt on capitals, rivers: the excess may be learned task"
        in page.text
    )


def test_any_variant_name_is_shown_as_it_is_and_does_no_harm(tmp_path: Path) -> None:
    names = ('<img src="x" onerror="alert(1)">', "$\\frac$ & </svg>", "_hidden", "a id=b url(#c)")
    page = write(tmp_path, study({name: 0.9 - 0.2 * i for i, name in enumerate(names)}))
    assert all(name in page.text for name in names)
    assert "img" not in page.tags


def test_an_incomplete_variant_is_named_and_not_ranked(tmp_path: Path) -> None:
    page = write(tmp_path, [*study({"dense": 0.9, "moe": 0.5}), result("late", 0.99, benchmark="rivers", step=200)])
    assert "late is incomplete at step 200: no capitals" in page.text
    assert page.source.count('class="left rank"') == 2


def test_variants_of_one_rank_share_a_label(tmp_path: Path) -> None:
    page = write(tmp_path, study({"dense": 0.5, "moe": 0.5, "wide": 0.9}))
    assert ">dense, moe</text>" in page.source


def test_long_curves_are_not_hidden_by_their_markers() -> None:
    ranking = rank(study({"dense": 0.9, "moe": 0.5}), BENCHMARKS)
    past = [replace(ranking, step=step) for step in range(100, 50_100, 100)]
    with in_style():
        figure = learning_figure(past, looks_of(ranking.scores), {})
    assert figure.count("<use ") < len(past)
    assert ">50k</text>" in figure


def test_one_variant_at_one_step_makes_a_page(tmp_path: Path) -> None:
    assert "a ranking needs a second" in write(tmp_path, study({"dense": 0.9}, steps=[100])).text
    assert "nothing to rank" in write(tmp_path, [result("dense", 0.9)]).text


def test_diverged_rising_and_undefined_are_said(tmp_path: Path) -> None:
    rising = tuple(
        CurvePoint(step=step, loss=1.0, metrics=summarise(outcomes("cue", 0.5, follows)))
        for step, follows in zip(PROTOCOL.measured_steps, (0.0, 0.2, 0.6), strict=True)
    )
    odd = replace(result("moe", 0.5, follows=0.0), curves={"cue": rising}, diverged={"prefix": (1,)}, provenance={})
    page = Page(write_report([Arm.of("odd", [odd], ["capitals"])], tmp_path / "report.html", title="Nightly"))
    assert replace(odd, diverged={"cue": (1,)}).sentences() == ["cue: tuning diverged on capitals (seeds 1)"]
    assert "accuracy not saturated on capitals" in page.text
    assert "tuning diverged on capitals (seeds 1)" in page.text
    assert '<td class="undefined" title="undefined">' in page.source


def test_results_of_two_protocols_are_refused_and_the_old_page_stays(tmp_path: Path) -> None:
    before = write(tmp_path, [result("dense", 0.9)]).source
    other = replace(result("moe", 0.5), protocol=replace(PROTOCOL, num_vectors=3))
    with pytest.raises(BadStudy, match="2 protocols"):
        write(tmp_path, [result("dense", 0.9), other])
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before
