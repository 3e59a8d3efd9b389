"""What a real MLflow store shows of a study: runs, curves, rankings, failures."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded import job, log, log_rankings, points
from studies import recorded_result

from softprompt.errors import BadStudy, HomeUnavailable, SoftPromptError
from softprompt.result import Job
from softprompt.study import Study
from tasks.evaluation import evaluate_and_log
from tasks.rankings import PastRankings, rank_at
from tasks.store import Store
from tasks.tracking import Tracker


def test_scores_of_two_protocols_share_no_curve(study: Study) -> None:
    """A team edits the protocol of a study that has results."""
    edited = replace(study, protocol=replace(study.protocol, num_steps=study.protocol.num_steps + 1))
    for each in (study, edited, edited):
        log(each, *(job(each, benchmark=name) for name in study.benchmarks))
        log_rankings(each)
    client, runs = Store(study).client, [Store(each).run_id("A") for each in (study, edited)]
    assert Store(study).ranking_run_id != Store(edited).ranking_run_id
    shown = client.search_runs([Store(edited).experiment_id], filter_string=Store(edited).variants)
    assert [run.info.run_id for run in shown] == runs[1:]
    first, second = map(client.get_run, runs)
    assert (first.info.run_name, second.info.run_name) == ("A", f"A ({edited.protocol.fingerprint})")
    assert [run.data.params["num_steps"] for run in (first, second)] == ["2", "3"]
    assert first.data.params.keys() == study.protocol.to_dict().keys()
    for run in (first, second):
        assert {"accuracy/sums", "accuracy/mean", "rank/mean"} <= run.data.metrics.keys()
        for name in run.data.metrics:
            assert len(client.get_metric_history(run.info.run_id, name)) == 1


def test_scores_of_two_versions_of_a_benchmark_share_no_curve(study: Study) -> None:
    """A team edits a benchmark of its own; the mean of the benchmarks is another one then, too."""
    log(study, *(job(study, benchmark=name) for name in study.benchmarks))
    log_rankings(study)
    own = Path(study.benchmark_folder or "", "sums.py")
    own.write_text(own.read_text().replace("max_new_tokens=4", "max_new_tokens=5"))
    edited = replace(study)
    log(edited, job(edited))
    log_rankings(edited)
    Store(study).client.delete_run(Store(study).ranking_run_id)  # by hand, for whatever reason
    log(edited, *(job(edited, "B", benchmark=name) for name in study.benchmarks))  # it never had the version before
    log_rankings(edited)
    version = edited.benchmark("sums").fingerprint
    client = Store(study).client
    first, second = (client.get_run(Store(study).run_id(variant)).data.metrics.keys() for variant in "AB")
    assert {"accuracy/sums", f"accuracy/sums.{version}", "accuracy/capitals", "accuracy/mean"} <= first
    assert {f"accuracy/sums.{version}", "accuracy/capitals"} <= second
    assert not {"accuracy/sums", "accuracy/mean"} & second
    assert len([name for name in first & second if name.startswith("rank/mean.")]) == 1
    assert [name for name in first if len({point.step for point in points(study, "A", name)}) != 1] == []


@pytest.mark.parametrize("variant", ["ranking", "it's", "a\\b", "a\\", "' OR \\'", "100%", "x" * 600])
def test_a_variant_may_be_called_anything(study: Study, variant: str) -> None:
    for step in (100, 200):
        log(study, *(job(study, variant, step, benchmark=name) for name in study.benchmarks))
    log_rankings(study)
    store = Store(study)
    assert [point.step for point in points(study, variant, "accuracy/sums")] == [100, 200]
    assert len(store.active_runs()) == 2
    both = store.run_id(variant), store.ranking_run_id
    held = [{file.path for file in store.client.list_artifacts(run_id)} for run_id in both]
    assert held == [{"results"}, {"rankings.json"}]


def test_what_a_team_keeps_in_the_experiment_is_left_alone(study: Study) -> None:
    store = Store(study)
    store.client.create_run(store.experiment_id, run_name="A", tags={"variant": "A"})
    store.client.create_logged_model(
        store.experiment_id, name="A", tags={"fingerprint": job(study).checkpoint.fingerprint}
    )
    log(study, job(study))
    assert Tracker(study).ledger.finished().keys() == {job(study).key}
    assert len(points(study, "A", "accuracy/sums")) == 1


def test_a_run_that_was_deleted_is_made_anew_with_all_its_points(study: Study) -> None:
    jobs = [job(study, step=step, benchmark=name) for step in (100, 200) for name in study.benchmarks]
    log(study, *jobs[:3])
    store, kept = Store(study), job(study, "B")
    log(study, kept)
    log_rankings(study)
    deleted = store.run_id("A")
    store.client.delete_run(deleted)
    log(study, jobs[3])
    for home in (study.home, f"{study.home}-elsewhere"):
        other = replace(study, home=home, tracking_uri=study.mlflow_uri)
        Path(home, "ledger.json").unlink(missing_ok=True)
        assert Tracker(other).ledger.finished().keys() == {jobs[3].key, kept.key}
        assert Tracker(other).ledger.finished_of(jobs[0].checkpoint) == {}
        assert {result.job_key for result in Tracker(other).results()} == {jobs[3].key, kept.key}
    log(study, *jobs[:3])
    assert Tracker(study).ledger.finished().keys() == {each.key for each in (*jobs, kept)}
    log_rankings(study)
    assert Store(study).run_id("A") != deleted
    for name in ("accuracy/sums", "accuracy/mean", "rank/mean"):
        assert sorted(point.step for point in points(study, "A", name)) == [100, 200]


def test_a_step_that_cannot_be_ranked_is_said_and_leaves_the_others(study: Study) -> None:
    both = [job(study, variant, 200, benchmark=name) for variant in "AB" for name in study.benchmarks]
    log(study, job(study, "A"), *(job(study, variant, benchmark="capitals") for variant in "AB"), *both)
    tracker, other = Tracker(study), job(study, "B")
    result = recorded_result(other)
    items = tuple(replace(outcome, item=f"other-{outcome.item}") for outcome in result.outcomes)
    tracker.log(other, replace(result, outcomes=items).save(tracker.results_folder / other.key))
    past = log_rankings(study)
    assert [ranking.step for ranking in past.new] == [200]
    (note,) = past.notes
    assert note.startswith("Step 100 is not ranked: B and A were given different items of sums at step 100")


def test_weights_that_were_written_over_are_not_ranked_where_their_successors_failed(study: Study) -> None:
    log(study, *(job(study, variant, benchmark=name) for variant in "AB" for name in study.benchmarks))
    Tracker(study).log_failure(job(study, "A", weights="second"), SoftPromptError("Its weights are NaN."))
    tracker = Tracker(study)
    ranking, _ = rank_at(tracker, *tracker.ledger.done_and_failed())
    assert (list(ranking.scores), list(ranking.incomplete)) == (["B"], ["A"])
    assert ranking.notes == ("A failed at step 100 on sums: Its weights are NaN",)


def test_a_checkpoint_of_another_bucket_is_named_beside_the_ranking(study: Study) -> None:
    log(study, *(job(study, "A", benchmark=name) for name in study.benchmarks))
    elsewhere = replace(study, bucket=f"{study.bucket}-of-last-year")
    log(elsewhere, *(job(elsewhere, "B", benchmark=name) for name in study.benchmarks))
    tracker = Tracker(study)
    ranking, _ = rank_at(tracker, *tracker.ledger.done_and_failed())
    assert ranking.notes == (f"B was evaluated from {elsewhere.bucket}/B/step-100, which is not in {study.bucket}",)


def test_a_store_that_was_moved_with_its_home_says_what_to_do(study: Study) -> None:
    log(study, job(study))
    moved = Path(study.home).rename(f"{study.home}-moved")
    with pytest.raises(
        BadStudy, match=rf"keeps its files at {study.home}/mlartifacts, where .*; move it back there\. Or"
    ):
        Tracker(replace(study, home=str(moved))).ledger.finished()


def test_a_ranking_opens_the_results_of_its_step_and_remembers_what_others_said(study: Study) -> None:
    log(study, *(job(study, variant, benchmark=name) for variant in "AB" for name in study.benchmarks))
    first = log_rankings(study)
    assert [ranking.step for ranking in first.new] == [100]

    shutil.rmtree(f"{study.home}/results")
    shutil.rmtree(f"{study.home}/mlartifacts/{Store(study).run_id('A')}")  # step 100 can no longer be opened
    log(study, *(job(study, "A", step=200, benchmark=name) for name in study.benchmarks))
    jobs = Tracker(study).ledger.to_rank()
    assert [ranking.step for ranking in log_rankings(study).new] == [200]
    assert rank_at(Tracker(study), jobs, step=200)[0].incomplete == {"B": ("capitals", "sums")}
    assert points(study, "A", "rank/mean")[0].step == 100

    Path(study.home, "rankings.json").unlink()  # MLflow has it as well
    again = log_rankings(study)
    assert again.new == []
    assert again.rankings[0] == first.rankings[0]
    kept = Path(study.home, "rankings.json")
    kept.write_text(kept.read_text().replace("p_above_chance", "p_above"))  # as another version would write it
    known = PastRankings(Tracker(study), [each for each in jobs if each.step == 200])
    assert [ranking.step for ranking in known.new] == [200]
    with pytest.raises(BadStudy, match=r"no results at step 150; there are at 100, 200"):
        rank_at(Tracker(study), jobs, step=150)
    with pytest.raises(BadStudy, match=r"There is no condition 'nonsense' in these results; there are cue"):
        rank_at(Tracker(study), jobs, step=200, condition="nonsense")


def test_a_variant_whose_jobs_failed_stands_in_the_ranking_and_its_error_in_mlflow(study: Study) -> None:
    def fail(*jobs: Job, error: str) -> None:
        for each in jobs:
            Tracker(study).log_failure(each, SoftPromptError(error))

    def notes(**how: Any) -> tuple[str, ...]:
        tracker = Tracker(study)
        return rank_at(tracker, *tracker.ledger.done_and_failed(), **how)[0].notes

    def tags(variant: str) -> dict[str, str]:
        store = Store(study)
        found = store.client.get_run(store.run_id(variant)).data.tags
        return {name: value for name, value in found.items() if name.startswith("failed")}

    both = [job(study, "F", benchmark=name) for name in study.benchmarks]
    fail(*both, error="Its weights are NaN.")
    with pytest.raises(
        BadStudy, match=r"no results to rank yet: F failed at step 100 on capitals, sums: Its wei.* NaN\.$"
    ):
        notes()
    log(study, *(job(study, "A", step=step, benchmark=name) for step in (100, 200) for name in study.benchmarks))
    failed = "F failed at step 100 on capitals, sums: Its weights are NaN"
    assert notes() == (failed,)
    tracker = Tracker(study)
    ranking, _ = rank_at(tracker, *tracker.ledger.done_and_failed())
    assert ranking.incomplete == {"F": ("capitals", "sums")}
    assert tags("F") == dict.fromkeys(("failed/capitals", "failed/sums"), "step 100: Its weights are NaN.")

    fail(job(study, "A", step=300), error="Killed.")
    assert notes() == ("A failed at step 300 on sums: Killed", failed)
    fail(job(study, "A", step=100, weights="second"), error="Killed.")  # older than the ranked step
    log(study, job(study, "A", step=300))  # tried again by hand
    assert notes() == (failed,)
    log(study, *(job(study, "F", weights="second", benchmark=name) for name in study.benchmarks))
    assert notes(step=200) == ()
    assert tags("F") == {}


def test_an_experiment_that_was_deleted_is_said_with_a_command_that_restores_it(study: Study, tmp_path: Path) -> None:
    store = Store(study)
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(BadStudy, match=r"was deleted; restore it by `.*`, or give") as caught:
        Tracker(study).ledger.finished()
    command, here = str(caught.value).split("`")[1], Path(sys.executable).parent
    where_mlflow_is = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, cwd=tmp_path, env=where_mlflow_is)
    assert Tracker(study).ledger.finished() == {}


def remove_home(study: Study) -> None:
    shutil.rmtree(study.home)


def spoil_database(study: Study) -> None:
    Path(study.home, "mlflow.db").write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("spoil", [remove_home, spoil_database])
def test_a_home_that_is_lost_while_a_result_is_logged_is_not_laid_to_mlflow(
    study: Study, spoil: Callable[[Study], None]
) -> None:
    mine = job(study)
    folder = recorded_result(mine).save(Tracker(study).results_folder / mine.key)
    spoil(study)
    with pytest.raises(HomeUnavailable, match=rf"^{re.escape(study.home)} cannot be used \(.*`home` in the study"):
        Tracker(study).log(mine, folder)


def test_a_home_that_cannot_be_made_is_said_by_whatever_needs_it(study: Study) -> None:
    elsewhere = replace(study, home="/proc/softprompt", tracking_uri=study.mlflow_uri)
    with pytest.raises(HomeUnavailable, match=r"^/proc/softprompt cannot be used \(No such file"):
        Tracker(elsewhere).ledger.finished()
    with pytest.raises(HomeUnavailable, match=r"^/proc/softprompt cannot be used \(No such file"):
        evaluate_and_log(Tracker(elsewhere), job(study))
