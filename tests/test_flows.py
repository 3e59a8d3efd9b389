"""The flows on a real Prefect API and a real MLflow store: what is done once is never done again, nothing is lost."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from httpx import ConnectError
from prefect.client.orchestration import get_client
from s3 import S3Bucket
from safetensors.numpy import load_file, save_file
from studies import make_study
from typer.testing import CliRunner

from flows.backfill_checkpoints import backfill_checkpoints
from flows.cli import app
from flows.demo import STUDY, conclude, look
from flows.evaluate_checkpoint import evaluate_checkpoint
from flows.rank_variants import rank_variants
from flows.watch_checkpoints import watch_checkpoints
from softprompt.errors import BadCheckpoint, TrackingUnavailable
from softprompt.study import Study
from softprompt.world.corpus import RECIPES
from softprompt.world.facts import World
from softprompt.world.pretrain import Schedule, pretrain
from softprompt.world.rows import write_rows
from tasks.ledger import Ledger
from tasks.publishing import publish_ranking
from tasks.tracking import Tracker

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the benchmarks that were really evaluated, one entry each time."""
    import tasks.evaluation

    names: list[str] = []
    real = tasks.evaluation.compute

    def compute(study: Study, job: Any, folder: Path, devices: tuple[str, ...]) -> None:
        names.append(f"{job.checkpoint.variant} {job.benchmark.name}")
        real(study, job, folder, devices)

    monkeypatch.setattr(tasks.evaluation, "compute", compute)
    return names


def test_the_watcher_evaluates_and_ranks_what_is_new_and_nothing_twice(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str]
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert sorted(computed) == ["A capitals", "A sums", "B capitals", "B sums"]
    ranking = json.loads((tmp_path / ".softprompt" / "latest-ranking.json").read_text())
    assert ranking["sentences"][0].startswith("A and B are not distinguishable yet")
    assert (tmp_path / ".softprompt" / "report.html").exists()

    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert evaluate_checkpoint(str(study), f"{tmp_path}/bucket/A/step-100", return_state=True).is_completed()
    assert len(computed) == 4


def test_watchers_and_a_run_by_hand_that_start_together_share_the_work(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str]
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    with ThreadPoolExecutor(3) as pool:
        by_hand = pool.submit(evaluate_checkpoint, str(study), f"{tmp_path}/bucket/A/step-100", return_state=True)
        watchers = [pool.submit(watch_checkpoints, str(study), return_state=True) for _ in range(2)]
        assert by_hand.result().is_completed()
        assert {result.benchmark for result in Tracker(Study.read(study)).results() if result.variant == "A"} == {
            "capitals",
            "sums",
        }
        assert all(watcher.result().is_completed() for watcher in watchers)
    assert sorted(computed) == ["A capitals", "A sums", "B capitals", "B sums"]
    store = Tracker(Study.read(study)).store
    assert len(store.client.get_metric_history(store.run_id("A"), "accuracy/sums")) == 1


def test_mlflow_holds_a_run_per_variant_with_metrics_along_the_training_step(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    from mlflow import MlflowClient

    study = make_study(tmp_path, tiny_checkpoint)
    evaluate_checkpoint(str(study), f"{tmp_path}/bucket/A/step-100")
    declared = Study.read(study)
    client = MlflowClient(tracking_uri=declared.mlflow_uri)
    experiment = client.get_experiment_by_name("toy")
    (run,) = client.search_runs([experiment.experiment_id], filter_string="tags.variant = 'A'")
    assert run.info.status == "RUNNING"
    assert run.data.tags["protocol"] == declared.protocol.fingerprint
    names = {"accuracy/capitals", "format_following/sums", "accuracy.zero_shot/capitals", "accuracy/mean", "rank/mean"}
    assert names | {"recall_lost/capitals"} <= run.data.metrics.keys()
    assert [m.step for m in client.get_metric_history(run.info.run_id, "accuracy/capitals")] == [100]
    (folder,) = client.list_artifacts(run.info.run_id, "results/capitals")
    files = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, folder.path)}
    assert files == {"result.json", "items.parquet", "vectors.safetensors"}
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert "accuracy/capitals" in {metric.key for metric in model.metrics}


def test_one_benchmark_that_fails_leaves_the_others(tmp_path: Path, tiny_checkpoint: Path) -> None:
    study = make_study(tmp_path, tiny_checkpoint)
    shutil.rmtree(tmp_path / "mirror" / "toy" / "sums")
    assert watch_checkpoints(str(study), return_state=True).is_failed()
    assert [result.benchmark for result in Tracker(Study.read(study)).results()] == ["capitals"]
    ranking = rank_variants(str(study))
    assert ranking.incomplete == {"A": ("sums",)}


def test_a_checkpoint_that_cannot_be_evaluated_is_noted_until_it_is_repaired_and_hides_no_other(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    weights = tmp_path / "bucket" / "B" / "step-100" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"][:] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    assert watch_checkpoints(str(study), return_state=True).is_failed()
    failed = [job for job in Tracker(Study.read(study)).ledger.finished().values() if job.status == "failed"]
    assert {(job.variant, job.benchmark) for job in failed} == {("B", "capitals"), ("B", "sums")}
    assert all("NaN" in job.error for job in failed)

    computed.clear()
    caplog.clear()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert computed == []
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("B at step 100")
    assert f"at once by `softprompt watch STUDY --checkpoint {weights.parent}`" in warning
    again = CliRunner().invoke(app, ["watch", str(study), "--checkpoint", str(weights.parent)])
    assert again.exit_code == 1  # nothing was repaired
    assert sorted(computed) == ["B capitals", "B sums"]
    computed.clear()

    shutil.copyfile(tiny_checkpoint / "model.safetensors", weights)
    caplog.clear()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert sorted(computed) == ["B capitals", "B sums"]
    assert "again once its files change" not in caplog.text


def fails_for_good(*_: Any) -> None:
    raise BadCheckpoint("Its weights are NaN.")


def test_where_every_job_failed_there_is_no_second_failure_of_a_ranking(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tasks.evaluation.compute", fails_for_good)
    study = str(make_study(tmp_path, tiny_checkpoint))
    ended = watch_checkpoints(study, return_state=True)
    assert ended.message == "A at step 100: capitals, sums: BadCheckpoint: Its weights are NaN"  # as a team is told
    (evaluation,) = ended.result(raise_on_failure=False)
    assert evaluation.is_failed()
    assert "There are no results to rank yet." in caplog.text
    assert watch_checkpoints(study) == []
    assert rank_variants(study, return_state=True).is_failed()  # as whoever asks for it is told


def test_overwritten_weights_are_evaluated_again(tmp_path: Path, tiny_checkpoint: Path, computed: list[str]) -> None:
    study = make_study(tmp_path, tiny_checkpoint)
    watch_checkpoints(str(study))
    weights = tmp_path / "bucket" / "A" / "step-100" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] *= 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    for looked_again in (tmp_path / ".softprompt").glob("looked-again-*"):  # as if that were an hour ago
        looked_again.unlink()
    watch_checkpoints(str(study))
    assert len(computed) == 4
    assert len(Tracker(Study.read(study)).results()) == 2


def test_a_result_that_was_computed_but_not_logged_is_logged_without_computing_it_again(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, tiny_checkpoint)
    finish = Ledger.finish

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # as if the process were killed after the metrics, before the job is marked done

    monkeypatch.setattr(Ledger, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoint(str(study), f"{tmp_path}/bucket/A/step-100")
    assert Tracker(Study.read(study)).ledger.finished() == {}

    monkeypatch.setattr(Ledger, "finish", finish)
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert sorted(computed) == ["A capitals", "A sums"]
    store = Tracker(Study.read(study)).store
    history = store.client.get_metric_history(store.run_id("A"), "accuracy/capitals")
    assert len(history) == 1


def test_a_ranking_is_published_once_and_again_if_it_was_cut_off_or_the_study_changed(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(tmp_path, tiny_checkpoint)
    latest = tmp_path / ".softprompt" / "latest-ranking.json"

    def cut_off(*_: object, **__: object) -> None:
        raise ConnectError("Prefect is away.")

    with monkeypatch.context() as patched:
        patched.setattr("tasks.publishing.create_markdown_artifact", cut_off)
        patched.setattr("flows.rank_variants.publish_ranking", publish_ranking.with_options(retries=0))
        assert watch_checkpoints(str(study), return_state=True).is_failed()
    latest.unlink()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert json.loads(latest.read_text())["benchmarks"] == ["capitals", "sums"]
    latest.unlink()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert not latest.exists()  # nothing has changed since
    study.write_text(study.read_text().replace('["capitals", "sums"]', '["sums"]'))
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert json.loads(latest.read_text())["benchmarks"] == ["sums"]
    assert sorted(computed) == ["A capitals", "A sums"]


def test_two_studies_in_one_bucket_keep_apart(tmp_path: Path, tiny_checkpoint: Path, computed: list[str]) -> None:
    first = make_study(tmp_path, tiny_checkpoint)
    second = tmp_path / "second.toml"
    text = first.read_text().replace('name = "toy"', 'name = "second"')
    second.write_text(text.replace("num_steps = 2", "num_steps = 3"))
    watch_checkpoints(str(first))
    watch_checkpoints(str(second))
    assert len(computed) == 4
    for file, num_steps in ((first, 2), (second, 3)):
        assert {r.protocol.num_steps for r in Tracker(Study.read(file)).results()} == {num_steps}


def test_a_bucket_on_s3_is_watched_like_a_folder(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str], s3: S3Bucket
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, variants=())
    study.write_text(study.read_text().replace('bucket = "bucket"', f'bucket = "{s3.url}"'))
    uri = s3.upload(tiny_checkpoint, "A/step-100")
    s3.write("B/step-100/config.json", b"{}")
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert evaluate_checkpoint(str(study), uri, return_state=True).is_completed()
    assert sorted(computed) == ["A capitals", "A sums"]
    assert {result.provenance["checkpoint"] for result in Tracker(Study.read(study)).results()} == {uri}


def test_a_back_fill_evaluates_a_range_of_steps_of_the_named_variants(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str]
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    for step in (200, 300):
        shutil.copytree(tiny_checkpoint, tmp_path / "bucket" / "A" / f"step-{step}")
    assert backfill_checkpoints(str(study), 100, 200, dry_run=True) == []
    assert computed == []
    assert backfill_checkpoints(str(study), 200, 300, variants=["B"]) == []
    assert backfill_checkpoints(str(study), 100, 200, variants=["A"], return_state=True).is_completed()
    results = Tracker(Study.read(study)).results()
    assert {(result.variant, result.step) for result in results} == {("A", 100), ("A", 200)}


def test_a_back_fill_may_try_again_what_failed(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than each look describes."""
    monkeypatch.setattr("tasks.discovery.NUM_FAILED", 0)
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    with monkeypatch.context() as broken:
        broken.setattr("tasks.evaluation.compute", fails_for_good)
        assert watch_checkpoints(str(study), return_state=True).is_failed()
    backfill_checkpoints(str(study), 0, 100)
    assert computed == []
    assert backfill_checkpoints(str(study), 0, 100, ["A"], retry_failed=True, return_state=True).is_completed()
    assert sorted(computed) == ["A capitals", "A sums"]


def test_a_variant_that_is_left_out_is_neither_evaluated_nor_ranked(
    tmp_path: Path, tiny_checkpoint: Path, computed: list[str]
) -> None:
    study = make_study(tmp_path, tiny_checkpoint, ("A", "B"))
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    shutil.copytree(tiny_checkpoint, tmp_path / "bucket" / "B" / "step-200")
    study.write_text('leave_out = ["B"]\n' + study.read_text())
    computed.clear()
    assert watch_checkpoints(str(study), return_state=True).is_completed()
    assert computed == []
    latest = json.loads((tmp_path / ".softprompt" / "latest-ranking.json").read_text())
    assert [standing["variant"] for standing in latest["standings"]] == ["A"]
    assert latest["incomplete"] == {}


def test_an_mlflow_that_does_not_answer_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    study = make_study(tmp_path)
    study.write_text('tracking_uri = "http://user:secret@127.0.0.1:9"\n' + study.read_text())
    with pytest.raises(
        TrackingUnavailable, match=r"cannot be used \([^()]*Connection refused\); nothing computed is lost: start it"
    ) as caught:
        Tracker(Study.read(study)).ledger.finished()
    assert "secret" not in str(caught.value)
    assert "Retrying" not in caplog.text


@pytest.fixture
def refusing_server() -> Iterator[HTTPServer]:
    """A server that answers everything with its `status`, as MLflow's does where it knows users by password."""

    class Refusal(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.status)  # type: ignore[attr-defined]
            self.end_headers()
            self.wfile.write(b"Permission denied")

    with HTTPServer(("127.0.0.1", 0), Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where this runs,"),
        (403, "give the user of MLFLOW_TRACKING_USERNAME .* the permission EDIT on the experiment,"),
    ],
)
def test_an_mlflow_that_refuses_its_user_says_so_and_is_not_asked_again(
    tmp_path: Path, refusing_server: HTTPServer, status: int, remedy: str
) -> None:
    refusing_server.status = status  # type: ignore[attr-defined]
    study = make_study(tmp_path)
    study.write_text(f'tracking_uri = "http://127.0.0.1:{refusing_server.server_port}"\n' + study.read_text())
    with pytest.raises(
        TrackingUnavailable, match=rf"cannot be used \(.* {status} .*nothing computed is lost: {remedy}"
    ) as caught:
        Tracker(Study.read(study)).ledger.finished()
    assert not caught.value.retryable


def test_a_users_error_in_a_flow_is_a_sentence_and_a_bug_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = make_study(tmp_path)
    assert watch_checkpoints(str(study), return_state=True).is_failed()
    said = [record.getMessage() for record in caplog.records if "There is no" in record.getMessage()]
    assert len(said) == 2  # by the task and by the flow
    assert "Traceback" not in caplog.text

    monkeypatch.setattr("tasks.discovery.list_folders", lambda *_: 1 / 0)
    assert watch_checkpoints(str(study), return_state=True).is_failed()
    assert "Traceback" in caplog.text


def test_runs_are_named_by_their_study_and_by_its_path_where_that_cannot_be_read(tmp_path: Path) -> None:
    study = make_study(tmp_path, name="width sweep")
    (tmp_path / "bucket").mkdir()
    watch_checkpoints(str(study))
    backfill_checkpoints(str(study), 100, 200)
    missing = str(tmp_path / "missing.toml")
    assert rank_variants(missing, return_state=True).is_failed()
    with get_client(sync_client=True) as client:
        names = {run.name for run in client.read_flow_runs()}
    assert {"width sweep", "width sweep, steps 100 to 200", missing} <= names


def test_flows_can_be_imported_without_torch() -> None:
    code = "import flows.watch_checkpoints, flows.demo, flows.cli, sys; print({'torch', 'mlflow'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


QUICK = "num_train = 8\nnum_shots = 2\nnum_steps = 2\ncurve_steps = []\nseeds = [0]\nbatch_size = 4"


def test_a_demo_ends_with_every_ranking_beside_the_truth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, recipes = World(5, num_asked=6, num_train=8, num_test=10), RECIPES[:2]
    write_rows(world, tmp_path / "mirror")
    pretrain(world, recipes, Schedule(num_steps=20, save_every=20), tmp_path / "bucket")
    study = tmp_path / "study.toml"
    text = STUDY.read_text().replace("num_train = 100", QUICK)
    study.write_text(re.sub(r"^benchmarks = .*", 'benchmarks = ["world_pet"]', text, flags=re.M))
    look(study)
    conclude(study)

    declared, variants = Study.read(study), {recipe.name for recipe in recipes}
    found = json.loads((tmp_path / "ranking.json").read_text())
    assert found["variants"].keys() == variants
    assert found["tau"].keys() == set(declared.protocol.conditions)
    assert [point["step"] for point in found["variants"]["A"]] == [20]
    assert all(0 <= point["truth"] <= 1 for points in found["variants"].values() for point in points)
    assert "known share" in (tmp_path / "report.html").read_text()
    store = Tracker(declared).store
    for variant in variants:
        assert [m.step for m in store.client.get_metric_history(store.run_id(variant), "truth/mean")] == [20]
    shown = capsys.readouterr().out
    assert "Accuracy (format-following) at the last step; Kendall's tau" in " ".join(shown.split())
