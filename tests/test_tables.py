"""Tables in a terminal and in Markdown: nothing is cut off, and every name is shown as it is."""

from dataclasses import replace

import pytest
from test_report import BENCHMARKS, study

from softprompt.arm import Arm
from softprompt.tables import SHOWN, arms_tables, as_html, conditions_tables, screen, show_ranking


def test_any_variant_name_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    results = study({"A[bf16]": 0.9, "A[/]": 0.5}, steps=[100])
    arms = [Arm.of(name, results, BENCHMARKS) for name in ("plain", "[red]")]
    show_ranking(arms[0].ranking, arms[0].diagnosis)
    said = capsys.readouterr().out
    assert min(said.count("A[bf16]"), said.count("A[/]")) > 1  # in the table, and in a sentence
    screen.print(*arms_tables(arms))
    said = capsys.readouterr().out
    assert all(name in said for name in ("A[bf16]", "A[/]", "[red]: step 100"))
    assert "A[bf16] on capitals" in as_html(replace(results[0], step=0, provenance={"num_contaminated": 0}))
    assert "A[bf16] at step 100" in as_html(replace(results[0], provenance={"num_contaminated": 0}))


def test_a_variant_whose_name_holds_a_bar_keeps_to_its_cell() -> None:
    from tasks.publishing import as_markdown

    arm = Arm.of("plain", study({"A|B": 0.9, "C": 0.5}, steps=[100]), BENCHMARKS)
    assert "\n| 1 | A\\|B | 0." in as_markdown(arm.ranking, arm.diagnosis)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_nothing_is_cut_off_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(screen, "width", width)
    shares = {"A": 0.9, "B" * 70: 0.5}
    names = ["world_birthplace", "commonsense_qa_words", "arc_challenge_words", "winogrande_words"]
    results = [replace(r, benchmark=n) for r in study(shares, [100])[::2] for n in names]
    arm = Arm.of("plain", results, names)
    result = replace(results[0], provenance={"num_contaminated": 0})
    screen.print(*conditions_tables(result))
    show_ranking(arm.ranking, arm.diagnosis)
    screen.print(*arms_tables([arm, replace(arm, name="other")]))
    said = capsys.readouterr().out
    assert all(word in said for word in (*SHOWN, *names, *result.metrics, "0.900 0.77-0.96", "format_following"))
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    assert said.count("B") >= 70 * 2


def test_a_ranking_says_which_of_its_columns_are_centred_on_chance(capsys: pytest.CaptureFixture[str]) -> None:
    from tasks.publishing import as_markdown

    arm = Arm.of("plain", study({"A": 0.9, "B": 0.5}, steps=[100]), BENCHMARKS)
    show_ranking(arm.ranking, arm.diagnosis)
    shown = " ".join(capsys.readouterr().out.split())
    for said in (shown, as_markdown(arm.ranking, arm.diagnosis)):
        assert "Under a benchmark's name: accuracy as it is, not centred on chance." in said
