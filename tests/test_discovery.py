"""What a poll looks into: the unfinished, the newest, and in turn everything else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger
from s3 import S3Bucket
from studies import make_study
from test_checkpoints import write_checkpoint

from softprompt.checkpoints import Checkpoint, Folder
from softprompt.errors import BucketUnavailable
from softprompt.study import Study
from tasks.discovery import NUM_SLOTS, SLOT_S, find_pending, settled, worth_a_look
from tasks.ledger import Finished

DAY_S = 24 * 3600


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


def test_what_is_settled_and_old_is_left_alone() -> None:
    found = folders("A", *range(200))
    seen = worth_a_look(found, {("A", step) for step in range(200)}, now_s=0)
    assert [folder.step for folder in seen[:3]] == [199, 198, 197]
    assert len(seen) < 10
    assert worth_a_look(found, {("A", step) for step in range(200) if step != 50}, now_s=0) != seen


def test_the_newest_steps_come_first_over_all_variants() -> None:
    found = worth_a_look([*folders("A", 1, 3), *folders("B", 2, 3)], set(), now_s=0)
    assert [(folder.step, folder.variant) for folder in found] == [(3, "A"), (3, "B"), (2, "B"), (1, "A")]


@pytest.mark.parametrize("interval_s", [SLOT_S, 3600, DAY_S])
def test_every_settled_checkpoint_has_its_turn_whatever_the_interval(interval_s: int) -> None:
    found, everything = folders("A", *range(200)), {("A", step) for step in range(200)}
    polls = [worth_a_look(found, everything, now_s=i * interval_s) for i in range(NUM_SLOTS)]
    assert {folder.step for poll in polls for folder in poll} == set(range(200))
    assert max(len(poll) for poll in polls) < 10


def pending(study: Study, **arguments: Any) -> list[Checkpoint]:
    with disable_run_logger():
        return find_pending.fn(study, **arguments)


def test_pending_checkpoints_come_newest_first_and_no_more_than_asked_for(study: Study) -> None:
    for step in (5, 10, 15):
        write_checkpoint(Path(study.bucket) / "A" / f"step-{step}")
    assert [checkpoint.step for checkpoint in pending(study)] == [15, 10, 5]
    (newest,) = pending(study, most=1)
    assert newest.step == 15
    assert [c.step for c in pending(study, tried=frozenset({newest.fingerprint}), most=1)] == [10]


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


def test_a_store_that_is_away_is_no_empty_bucket(s3: S3Bucket, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketUnavailable):
        pending(dataclasses.replace(study, bucket=s3.url))
