"""The demo: a Knowledge World's variants are ranked while they train; then every ranking is held against the truth."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.rank_variants import rank_variants
from flows.watch_checkpoints import watch_checkpoints
from softprompt.arm import Arm
from softprompt.errors import BadStudy, SoftPromptError
from softprompt.report import write_report
from softprompt.study import Study
from softprompt.tables import screen, show_ranking, uncut
from softprompt.world.verdict import read_truth, verdict
from tasks.tracking import Tracker

SECONDS_BETWEEN_LOOKS = 3
STUDY = Path(__file__).parent.parent / "demo" / "study.toml"


def run_demo(folder: Path, seed: int) -> None:
    """Pre-train in a child process, watch its bucket until it is done, compare with the truth."""
    (folder / "bucket").mkdir(parents=True, exist_ok=True)
    study = folder / "study.toml"
    if not study.exists():
        if not STUDY.exists():
            raise BadStudy(f"{STUDY} is missing, which comes with the repository: `git checkout {STUDY}` restores it.")
        study.write_text(STUDY.read_text())
    log = folder / "pretrain.log"
    with log.open("w") as output:
        pretraining = subprocess.Popen(
            [sys.executable, "-m", "softprompt.world", str(folder), "--seed", str(seed)], stdout=output, stderr=output
        )
    screen.print(f"Pre-training variants A, B and C side by side; its progress goes to {log}.", markup=False)
    try:
        while pretraining.poll() is None:
            look(study)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        pretraining.terminate()
    if pretraining.returncode:
        raise SoftPromptError(f"Pre-training failed with exit code {pretraining.returncode}; {log} says why.")
    look(study, wait_for_others=True)
    conclude(study)


def look(study: Path, wait_for_others: bool = False) -> None:
    """One run of the watcher."""
    if watch_checkpoints(str(study), wait_for_others=wait_for_others, return_state=True).is_failed():
        screen.print("[yellow]Some evaluations failed; see the log above. The others go on.[/]")


def conclude(study: Path) -> None:
    """Rank, compare with the truth, write `ranking.json` and the report with the truth in it."""
    declared = Study.read(study)
    home, bucket, tracker = Path(declared.home), Path(declared.bucket), Tracker(declared)
    rank_variants(str(study))
    truth, results = read_truth(bucket), tracker.results()
    arm = Arm.of(declared.name, results, declared.benchmarks)
    show_ranking(arm.ranking, arm.diagnosis)
    tracker.log_truth(truth)
    found = verdict(results, truth)
    (home / "ranking.json").write_text(json.dumps(found, indent=1))
    centred = read_truth(bucket, centred=True)
    report = write_report([arm], home / "report.html", title=declared.name, truth=centred)
    screen.print(verdict_table(found))
    screen.print(f"Written: {home / 'ranking.json'}, {report}. `make ui` opens MLflow on it.", markup=False)


def verdict_table(found: dict[str, Any]) -> Table:
    """Last step: truth and each condition's accuracy (format-following) per variant; Kendall's tau below."""
    conditions = list(found["tau"])
    table = uncut("variant", "truth", *conditions, title="Accuracy (format-following) at the last step; Kendall's tau")
    for variant, points in found["variants"].items():
        last = points[-1]
        cells = [f"{last[c]['accuracy']:.3f} ({last[c]['format_following']:.2f})" for c in conditions]
        table.add_row(variant, f"{last['truth']:.3f}", *cells)
    table.add_section()
    table.add_row("tau", "", *(f"{found['tau'][c]:+.2f}" for c in conditions))
    return table
