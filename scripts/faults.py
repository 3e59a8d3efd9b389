"""One fault after another, for real, on small studies; writes docs/evidence/faults.md.

    python scripts/faults.py

Each study has two benchmarks and a tiny model of two layers on a real S3 server (SeaweedFS). Most of its looks are
tests/one_look.py, a process that dies or waits at a moment of choice. Needs the packages of `.[test]`, Linux with
`unshare` for the small disk, and Debian's `faketime` for the clock. Takes about a quarter of an hour.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from conftest import write_tiny_checkpoint  # noqa: E402 (its folder is no package; it also sets the environment)
from faults import COMPUTED_AGAIN, MOMENTS, ONE_LOOK, Account, one_look  # noqa: E402
from s3 import S3Server  # noqa: E402
from studies import make_study  # noqa: E402
from test_ledger import Server as MlflowServer  # noqa: E402

from softprompt.checkpoints import open_checkpoint  # noqa: E402
from softprompt.study import Study  # noqa: E402
from tasks.tracking import Tracker  # noqa: E402

LEASE_S, SETTLE_S = 5, 60
SECONDS_BETWEEN_FILES, SECONDS_BETWEEN_LOOKS = 75, 20
SECONDS_AWAY = 60
SET_BACK_S = 600
FAULTS = ("killed", "watcher", "store", "overwritten", "shards", "mlflow", "disk", "clock")
EVIDENCE = ROOT / "docs" / "evidence" / "faults.md"
SMALL_DISK = 'mkdir -p "$SOFTPROMPT_CACHE" && mount -t tmpfs -o size=100k none "$SOFTPROMPT_CACHE" && exec "$@"'


@dataclass
class Case:
    """A study on S3, its looks, and the jobs whose computing they began."""

    folder: Path
    server: S3Server
    settle_s: float = 0
    begun: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file, self.s3 = make_study(self.folder), self.server.new_place()
        text = self.file.read_text().replace('bucket = "bucket"', f'bucket = "{self.s3.url}"')
        self.file.write_text(text.replace("settle_s = 0", f"settle_s = {self.settle_s}\nlease_s = {LEASE_S}"))
        own = {"SOFTPROMPT_CACHE": self.folder / "cache", **self.server.environment}
        self.environment = ["env", *(f"{name}={value}" for name, value in own.items())]

    @property
    def study(self) -> Study:
        return Study.read(self.file)

    def look(self, *moment: str, through: Sequence[str] = (), file: Path | None = None) -> int:
        """One look from beginning to end, or to its death; returns its exit status."""
        status, lines = one_look(file or self.file, *moment, through=[*self.environment, *through])
        self.note(lines)
        return status

    @contextmanager
    def look_that_waits(self, moment: str, when: str, through: Sequence[str] = ()) -> Iterator[None]:
        """A look that waits at `moment` for the block's end, and then goes on to its own."""
        command = [*self.environment, *through, *ONE_LOOK, str(self.file), moment, when, "wait"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as look:
            assert look.stdin and look.stdout
            while (line := look.stdout.readline()) != "waiting\n":
                assert line, f"{moment} was never reached"
                self.note([line.strip()])
            yield
            rest, _ = look.communicate("go on\n", timeout=400)
            self.note(rest.splitlines())

    def note(self, lines: Iterable[str]) -> None:
        for line in lines:
            (self.said if line.startswith("failed: ") else self.begun).append(line)


@dataclass(frozen=True)
class Row:
    """Of the table."""

    fault: str
    done: str
    account: Account
    num_again: int
    """Jobs whose computing began, less jobs."""

    def __str__(self) -> str:
        account = self.account
        counts = (account.wanted.total(), account.num_lost, account.num_twice, self.num_again)
        return f"| {self.fault} | {self.done} | " + " | ".join(map(str, counts)) + " |"


def row(case: Case, fault: str, done: str, wanted: Sequence[tuple[str, int]]) -> Row:
    account = Account.of(case.study, wanted)
    return Row(fault, done, account, len(case.begun) - account.wanted.total())


def upload(case: Case, model: Path, variant: str, steps: Iterable[int]) -> list[tuple[str, int]]:
    places = [(variant, step) for step in steps]
    for _, step in places:
        case.s3.upload(model, f"{variant}/step-{step}")
    return places


def killed_at_ten_moments(case: Case, model: Path) -> Row:
    wanted = upload(case, model, "A", range(100, 600, 100))
    for moment in MOMENTS.values():
        assert case.look(*moment, "kill") == -signal.SIGKILL
        time.sleep(LEASE_S)
    case.look()
    done = (
        f"SIGKILL at ten moments, {len(COMPUTED_AGAIN)} of them between the claim's second look and the result's name"
    )
    return row(case, "evaluating process killed", done, wanted)


def watcher_killed(case: Case, model: Path) -> Row:
    """`softprompt watch` itself, with a Prefect server of its own."""
    wanted = upload(case, model, "A", (100, 200, 300))
    command = [*case.environment, sys.executable, "-m", "flows.cli", "watch", str(case.file)]
    for lives in (False, True):
        with (case.folder / "log").open("w") as log:
            watcher = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=ROOT)
            while not lives and not Tracker(case.study).ledger.finished():
                time.sleep(0.2)
            if not lives:
                os.killpg(watcher.pid, signal.SIGKILL)
            assert watcher.wait(300) == (0 if lives else -signal.SIGKILL)
        case.note(re.findall(r"\S+ at step \d+ on \w+: \w+ accuracy", (case.folder / "log").read_text()))
        time.sleep(LEASE_S)
    return row(case, "watcher killed", "SIGKILL of `softprompt watch` after its first result; started again", wanted)


def store_stopped(case: Case, model: Path) -> Row:
    wanted = upload(case, model, "A", (100, 200))
    with case.look_that_waits("softprompt.bucket:Bucket.download", "after"):
        case.server.stop()
    assert any("cannot be read just now" in line for line in case.said)
    time.sleep(SECONDS_AWAY)
    case.server.start()
    case.look()
    done = f"stopped when the first file of a checkpoint was there, started {SECONDS_AWAY} s later"
    return row(case, "S3 server stopped during a download", done, wanted)


def overwritten_while_it_downloads(case: Case, model: Path, other: Path) -> Row:
    wanted = upload(case, model, "A", (100,))
    with case.look_that_waits("softprompt.bucket:Bucket.download", "after"):
        upload(case, other, "A", (100,))
    assert any("was overwritten" in line for line in case.said)
    case.look()
    now = open_checkpoint(f"{case.s3.url}/A/step-100", ("A", 100))
    assert {job.checkpoint for job in Tracker(case.study).ledger.finished().values()} == {now.fingerprint}
    done = "all files written over when the first was there; only the new weights have results"
    return row(case, "checkpoint overwritten while it downloads", done, wanted)


def shards_in_any_order(case: Case, shards: Path) -> Row:
    """Config and tokenizer come together, as one more file."""
    small = [file for file in shards.iterdir() if "safetensors" not in file.name]
    groups = [small, *([file] for file in shards.iterdir() if file not in small)]
    orders = {variant: random.Random(variant).sample(groups, len(groups)) for variant in "ABC"}
    last = time.monotonic() - SECONDS_BETWEEN_FILES
    num_uploaded = 0
    while len(case.begun) < 2 * len(orders):
        if num_uploaded < len(groups) and time.monotonic() - last >= SECONDS_BETWEEN_FILES:
            for variant, order in orders.items():
                for file in order[num_uploaded]:
                    case.s3.write(f"{variant}/step-100/{file.name}", file.read_bytes())
            num_uploaded, last = num_uploaded + 1, time.monotonic()
        case.look()
        assert num_uploaded == len(groups) or not case.begun
        time.sleep(SECONDS_BETWEEN_LOOKS)
    assert not case.said
    done = (
        f"three variants of {len(groups)} files each, in orders of their own, {SECONDS_BETWEEN_FILES} s apart; a look "
        f"every {SECONDS_BETWEEN_LOOKS} s; settle_s = {SETTLE_S}"
    )
    return row(case, "shards in any order", done, [(variant, 100) for variant in orders])


def mlflow_stopped(case: Case, model: Path) -> Row:
    wanted = upload(case, model, "A", (100, 200))
    server = MlflowServer(case.folder)
    case.file.write_text(f'tracking_uri = "{server.uri}"\n' + case.file.read_text())
    server.start()
    try:
        with case.look_that_waits("tasks.ledger:Ledger.finish", "before"):
            server.stop()
        assert any("MLflow at" in line for line in case.said)
        time.sleep(SECONDS_AWAY)
        server.start()
        case.look()
        done = f"stopped in the middle of logging, started {SECONDS_AWAY} s later"
        return row(case, "MLflow stopped for a minute", done, wanted)
    finally:
        server.stop()


def disk_full(case: Case, model: Path) -> Row:
    wanted = upload(case, model, "A", (100,))
    case.look(through=["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh"])
    assert any("The disk of" in line and "is full" in line for line in case.said)
    case.look()
    return row(case, "disk full in the cache", "a cache on a disk of 100 kB, then on a larger one", wanted)


def clock_set_back(case: Case, model: Path) -> Row:
    wanted = upload(case, model, "A", (100, 200))
    elsewhere = case.folder / "elsewhere.toml"  # another machine's: two looks with one home would queue for its slot
    there = f'home = ".elsewhere"\ntracking_uri = "{case.study.mlflow_uri}"'
    elsewhere.write_text(case.file.read_text().replace('home = ".softprompt"', there))
    clock = case.folder / "clock"
    clock.write_text("+0")
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    variables = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": 1}
    variables |= {"FAKETIME_DONT_FAKE_MONOTONIC": 1}
    through = ["env", *(f"{name}={value}" for name, value in variables.items())]
    with case.look_that_waits("tasks.evaluation:is_finished", "after", through):
        clock.write_text(f"-{SET_BACK_S}")
        time.sleep(LEASE_S)
        case.look(file=elsewhere)  # by the right clock: it takes the waiting look for a dead one
    wanted += upload(case, model, "A", (300,))
    case.look(through=through)
    case.look()  # whose copy of the ledger misses what was written ten minutes ago, and is made anew
    done = (
        f"by {SET_BACK_S // 60} min under a look that held a claim, while another look with the right clock took the "
        "job over; then a look with the wrong clock alone and one with the right"
    )
    return row(case, "clock set back", done, wanted)


def make_folder(folder: Path) -> Path:
    folder.mkdir()
    return folder


PAGE = """# Faults: what was lost, what is there twice

{date}, `python scripts/faults.py`, two CPU cores shared with other work, {minutes:.0f} min. Each fault was done for
real, to processes, servers, a disk and a clock, on small studies of two benchmarks whose checkpoints lie on a SeaweedFS
server. A job is lost if in the end the ledger has no entry or MLflow no metric point for it; twice, for each entry or
point too many. Begun again: beginnings of a job besides its first, which cost time and nothing else.

| fault | what was done | jobs | lost | twice | begun again |
| --- | --- | --- | --- | --- | --- |
{rows}

The ten moments are those of `tests/faults.py`, which `make test` runs as well. Of the clock: a claim written by a clock
that is behind ends early for all others, so that they take the job over; whoever logs second drops its result
([004](../decisions/004-claims.md)).

What the script found, since mended: what a look with the clock set back had logged was missing from the ledger's copy
until the day's full reading, 2 of 6 jobs lost for so long. Now the next look sees that the copy is wrong
([002](../decisions/002-ledger.md)).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", help=f"Of {', '.join(FAULTS)}; only all of them write the page.")
    chosen, start = tuple(parser.parse_args().faults) or FAULTS, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="softprompt-faults-"))
    servers = [S3Server(make_folder(folder / name)) for name in ("s3", "s3-that-stops")]
    try:
        for server in servers:
            server.start()
        os.environ.update(servers[0].environment)
        os.environ["PYTHONPATH"] = str(ROOT)
        texts = [f"Question: {i}? Answer: {i}" for i in range(20)]
        model, other = (write_tiny_checkpoint(folder / name, texts[i:]) for i, name in enumerate(("model", "other")))
        shards = write_tiny_checkpoint(folder / "shards", texts, max_shard_size="60KB")

        def case(name: str, server: S3Server = servers[0], settle_s: float = 0) -> Case:
            return Case(folder / f"study-{name}", server, settle_s)

        with ThreadPoolExecutor(1) as pool:
            if "shards" in chosen:
                slowly = pool.submit(shards_in_any_order, case("shards", settle_s=SETTLE_S), shards)
            faults: dict[str, Callable[[], Row]] = {
                "killed": lambda: killed_at_ten_moments(case("killed"), model),
                "watcher": lambda: watcher_killed(case("watcher"), model),
                "store": lambda: store_stopped(case("store", servers[1]), model),
                "overwritten": lambda: overwritten_while_it_downloads(case("overwritten"), model, other),
                "shards": lambda: slowly.result(),
                "mlflow": lambda: mlflow_stopped(case("mlflow"), model),
                "disk": lambda: disk_full(case("disk"), model),
                "clock": lambda: clock_set_back(case("clock"), model),
            }
            rows = []
            for name in chosen:
                rows.append(faults[name]())
                print(rows[-1], flush=True)
        if chosen != FAULTS:
            return
        minutes = (time.monotonic() - start) / 60
        EVIDENCE.write_text(PAGE.format(date=date.today(), minutes=minutes, rows="\n".join(map(str, rows))))
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
