"""What a poll looks into: the unfinished and, once an hour, the newest and in turn everything else."""

import dataclasses
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiobotocore.httpsession import AIOHTTPSession
from prefect.logging import disable_run_logger
from s3 import S3Bucket
from studies import make_study
from test_checkpoints import write_checkpoint

from softprompt.checkpoints import Checkpoint, Folder, discover
from softprompt.errors import BadCheckpoint, BucketUnavailable, IncompleteCheckpoint
from softprompt.study import Study
from tasks import discovery
from tasks.discovery import NUM_FAILED, find_pending, jobs_of, settled, worth_a_look
from tasks.ledger import Finished, Ledger
from tasks.second_looks import HOUR_S, SecondLook


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all studies here: making an MLflow store takes seconds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def study(tmp_path: Path, home: Path) -> Study:
    file = make_study(tmp_path, tmp_path, variants=())
    (tmp_path / "bucket").mkdir()
    return dataclasses.replace(Study.read(file), home=str(home))


def folders(variant: str, *steps: int) -> list[Folder]:
    return [
        Folder(uri=f"s3://b/{variant}/{step}", path=f"{variant}/{step}", variant=variant, step=step) for step in steps
    ]


def finished(study: Study, **changes: Any) -> Finished:
    values = {"key": "", "status": "done", "variant": "A", "step": 1, "benchmark": "sums", "modified_ms": 0}
    values |= {"uri": "", "checkpoint": "", "run_id": "", "protocol": study.protocol.fingerprint, **changes}
    version = study.benchmark(str(values["benchmark"])).fingerprint
    return Finished(**{"benchmark_fingerprint": version, **values})


def test_settled_is_what_every_benchmark_has_finished_under_this_protocol(study: Study) -> None:
    capitals, sums = finished(study, benchmark="capitals"), finished(study, status="failed")
    assert settled(study, [capitals, sums]) == {("A", 1)}
    for other in ({"protocol": "another"}, {"step": 2}, {"variant": "B"}, {"benchmark_fingerprint": "another"}):
        assert settled(study, [capitals, finished(study, **other)]) == set()


def look(study: Study, found: list[Folder], hour: float, unsettled: int | None = None) -> list[int]:
    """Steps that a poll at this hour describes, if all are settled but one and none of them needs an evaluation."""
    again = SecondLook(study, now_s=hour * HOUR_S)
    everything = {(folder.variant, folder.step) for folder in found if folder.step != unsettled}
    steps = [folder.step for folder in worth_a_look(found, everything, set(), again)]
    again.done()
    return steps


def test_settled_checkpoints_are_looked_into_once_an_hour_the_newest_each_time(study: Study) -> None:
    found = folders("A", *range(200))
    first = look(study, found, hour=1000)
    assert first[:3] == [199, 198, 197]
    assert len(first) < 20
    assert look(study, found, hour=1000.9) == []
    assert look(study, found, hour=1000.9, unsettled=50) == [50]
    second = look(study, found, hour=1001)
    assert second[:3] == first[:3]
    assert not set(first[3:]) & set(second[3:])
    assert look(study, found, hour=900)  # a clock was set back


def test_of_checkpoints_with_failed_jobs_the_newest_are_looked_into_each_time(study: Study) -> None:
    found = folders("A", *range(200))
    again = SecondLook(study, now_s=1000 * HOUR_S)
    again.turns = set()
    everything = {(folder.variant, folder.step) for folder in found}
    assert [folder.step for folder in worth_a_look(found, everything, {("A", 7), ("A", 9)}, again)] == [9, 7]
    steps = [folder.step for folder in worth_a_look(found, everything, everything, again)]
    assert steps == list(range(199, 199 - NUM_FAILED, -1))


def finish_all(study: Study, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the ledger say that every checkpoint as it lies there now is finished."""
    checkpoints = discover(study.bucket, study.layout).checkpoints
    done = {
        job.key: finished(study, step=c.step, benchmark=job.benchmark.name, **changes)
        for c in checkpoints
        for job in jobs_of(study, c)
    }
    monkeypatch.setattr(Ledger, "finished", lambda _: done)


def test_overwritten_weights_are_found_an_hour_later_and_until_they_are_evaluated(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(Path(study.bucket) / "A" / "step-1")
    finish_all(study, monkeypatch)
    assert pending(study) == []
    os.utime(folder / "model.safetensors", (1, 1))
    assert pending(study) == []
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + HOUR_S)
    (found,) = pending(study)
    assert pending(study) == [found]
    assert pending(study, tried=frozenset({found.uri})) == []  # its evaluation failed: after another hour


def test_a_failed_checkpoint_is_named_by_each_look_until_it_is_repaired_which_the_next_look_sees(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(Path(study.bucket) / "A" / "step-1")
    write_checkpoint(Path(study.bucket) / "A" / "step-2")
    finish_all(study, monkeypatch, status="failed", error="Its weights are NaN.")
    pending(study)
    for _ in range(2):
        found = discovery.look(study)
        assert (found.pending, len(found.failed)) == ([], 2)
        assert found.warnings()[1] == (
            f"A at step 1, {folder}, failed before on capitals, sums: Its weights are NaN. It is tried again once its "
            f"files change, and at once by `softprompt watch STUDY --checkpoint {folder}`, or as a deployment by "
            f"`prefect deployment run evaluate-checkpoint/by-hand -p checkpoint={folder}`."
        )
    os.utime(folder / "config.json", (1, 1))
    found = discovery.look(study)
    assert [checkpoint.step for checkpoint in found.pending] == [1]
    assert [failure.checkpoint.step for failure in found.failed] == [2]


def test_a_look_that_ends_early_claims_nothing_of_the_rest_and_a_run_warns_once(
    study: Study, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "get_run_logger", lambda: logging.getLogger("look"))
    caplog.set_level("INFO", "look")
    assert find_pending.fn(study).pending == []
    assert f"Nothing lies in {study.bucket} (yet); correct `bucket` in the study" in caplog.text
    for step in (1, 2, 3):
        write_checkpoint(Path(study.bucket) / "A" / f"step-{step}")
    for step in (1, 3):
        (Path(study.bucket) / "A" / f"step-{step}" / "config.json").unlink()
    (second,) = find_pending.fn(study, most=1).pending
    assert "3 checkpoints in" in caplog.text
    assert ", 2 of them looked into: 1 to evaluate, 0 failed before, 1 passed over" in caplog.text
    assert find_pending.fn(study, tried=frozenset({second.uri}), most=1).pending == []
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [re.findall(r"step-\d", sentence)[0] for sentence in warned] == ["step-3", "step-1"]


@pytest.mark.parametrize("interval_h", [1 / 12, 0.9, 1, 5, 24, 100])
def test_every_settled_checkpoint_has_its_turn_each_day_whatever_the_interval(study: Study, interval_h: float) -> None:
    found = folders("A", *range(200))
    hours = [1000 + i * interval_h for i in range(2 + int(24 / interval_h))]
    polls = {hour: look(study, found, hour) for hour in hours}
    assert {step for poll in polls.values() for step in poll} == set(range(200))
    assert len(polls[hours[0]]) < 20


def test_a_poll_with_nothing_new_costs_the_listing_alone(
    s3: S3Bucket, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    send = AIOHTTPSession.send

    async def counted(self: AIOHTTPSession, request: Any) -> Any:
        requests.append(f"{request.method} {request.url}")
        return await send(self, request)

    on_s3 = dataclasses.replace(study, bucket=s3.url)
    whole = write_checkpoint(tmp_path / "whole")
    for step in (1, 2, 3):
        s3.upload(whole, f"A/step-{step}")
    finish_all(on_s3, monkeypatch)
    assert pending(on_s3) == []  # this hour's second look
    monkeypatch.setattr(AIOHTTPSession, "send", counted)
    assert pending(on_s3) == []
    assert len(requests) == 2  # the variants, and the steps of the one there is
    assert all("delimiter" in request for request in requests)
    s3.upload(whole, "A/step-4")
    assert [checkpoint.step for checkpoint in pending(on_s3)] == [4]

    s3.remove("A/step-4/config.json")
    finish_all(on_s3, monkeypatch, status="failed")
    requests.clear()
    assert pending(on_s3) == []
    assert len(requests) == 2 + 3 * 2 + 1  # a listing and a header for each that failed, a listing for the broken one


def test_the_newest_steps_come_first_over_all_variants(study: Study) -> None:
    both = [*folders("A", 1, 3), *folders("B", 2, 3)]
    found = worth_a_look(both, set(), set(), SecondLook(study, now_s=0))
    assert [(folder.step, folder.variant) for folder in found] == [(3, "A"), (3, "B"), (2, "B"), (1, "A")]


def pending(study: Study, **arguments: Any) -> list[Checkpoint]:
    with disable_run_logger():
        return find_pending.fn(study, **arguments).pending


def test_checkpoints_whose_results_no_longer_count_are_said_to_be_evaluated_anew(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (100, 200):
        write_checkpoint(tmp_path / "bucket" / "A" / f"step-{step}")
    former = finished(study, step=200, protocol="another")
    monkeypatch.setattr(Ledger, "finished", lambda _: {"key": former})
    assert [line.partition("; ")[2] for line in discovery.look(study).to_evaluate()] == [
        "its results are of other weights, another protocol, other benchmarks or another version of them",
        "",
    ]


def test_pending_checkpoints_come_newest_first_and_no_more_than_asked_for(study: Study) -> None:
    for step in (5, 10, 15):
        write_checkpoint(Path(study.bucket) / "A" / f"step-{step}")
    assert [checkpoint.step for checkpoint in pending(study)] == [15, 10, 5]
    (newest,) = pending(study, most=1)
    assert newest.step == 15
    assert [c.step for c in pending(study, tried=frozenset({newest.uri}), most=1)] == [10]


def test_a_checkpoint_that_is_no_good_hides_no_other(s3: S3Bucket, study: Study, tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole")
    for path in ("A/step-1", "A/step-2", "A/step-02", "A/step-best", "B/step-1"):
        s3.upload(whole, path)
    s3.write("B/step-1/model.safetensors")
    on_s3 = dataclasses.replace(study, bucket=s3.url)
    assert [(checkpoint.variant, checkpoint.step) for checkpoint in pending(on_s3)] == [("A", 1)]
    assert pending(dataclasses.replace(on_s3, settle_s=3600.0)) == []
    assert pending(dataclasses.replace(on_s3, marker="STABLE")) == []
    s3.write("A/step-1/STABLE")
    assert len(pending(dataclasses.replace(on_s3, marker="STABLE", settle_s=3600.0))) == 1


def test_a_checkpoint_waits_for_its_tokenizer_unless_the_study_has_one(study: Study) -> None:
    folder = write_checkpoint(Path(study.bucket) / "A" / "step-5")
    (folder / "tokenizer.json").unlink()
    assert pending(study) == []
    with pytest.raises(IncompleteCheckpoint, match=r"has no tokenizer \(yet\); if it never gets one, name one as"):
        study.locate(str(folder))
    assert len(pending(dataclasses.replace(study, tokenizer="elsewhere"))) == 1


@pytest.mark.parametrize("spelling", ["{link}/A/step-5", "file://{bucket}/A/step-5", "{bucket}//A/./step-5/"])
def test_another_spelling_of_its_path_makes_no_other_checkpoint(study: Study, tmp_path: Path, spelling: str) -> None:
    write_checkpoint(Path(study.bucket) / "A" / "step-5")
    (tmp_path / "link").symlink_to(study.bucket)
    (found,) = pending(study)
    assert study.locate(spelling.format(link=tmp_path / "link", bucket=study.bucket)) == found
    through_the_link = dataclasses.replace(study, bucket=str(tmp_path / "link"))
    assert through_the_link.locate(found.uri).fingerprint == found.fingerprint


def test_another_spelling_of_its_url_makes_no_other_checkpoint(s3: S3Bucket, study: Study, tmp_path: Path) -> None:
    on_s3 = dataclasses.replace(study, bucket=s3.url + "/")
    uri = s3.upload(write_checkpoint(tmp_path / "whole"), "A/step-5")
    assert on_s3.locate(uri.replace("A/step", "/A/step") + "/") == pending(on_s3)[0]


def test_a_checkpoint_from_elsewhere_must_say_whose_it_is(study: Study, tmp_path: Path) -> None:
    elsewhere = write_checkpoint(tmp_path / "elsewhere" / "step-5")
    with pytest.raises(
        BadCheckpoint, match=r"is not under .*bucket in the layout .*, or put variant and step into its"
    ):
        study.locate(str(elsewhere))
    (elsewhere / "metadata.json").write_text('{"variant": "A", "step": 5}')
    assert study.locate(str(elsewhere)).name == "A at step 5"


def test_a_store_that_is_away_is_no_empty_bucket(s3: S3Bucket, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketUnavailable):
        pending(dataclasses.replace(study, bucket=s3.url))
