"""One job in a process of its own, or in several that a launcher starts:

    accelerate launch -m softprompt.worker REQUEST.json FOLDER [--while-stdin-is-open]

The request is a `softprompt.request.Request`; the result is saved in FOLDER. Progress is printed line by line. An
error that a user can act on is printed as one line, written to REQUEST.error, and leaves exit status 1.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from softprompt.errors import SoftPromptError
from softprompt.files import usable, write_whole
from softprompt.host import fault_of_host
from softprompt.request import ERROR_SUFFIX, Request

SECONDS_BETWEEN_LINES = 10.0


def main(request_file: str, folder: str) -> None:
    from softprompt import processes  # not above: with PyTorch comes what a machine may lack

    result = Request.from_dict(json.loads(Path(request_file).read_text())).run(ProgressLines(processes.is_main()))
    if processes.is_main():
        with usable(folder):
            result.save(folder)
    processes.leave()


class ProgressLines:
    """Says what is done, a line at a time: each phase's first step and, after that, one in ten seconds. A trainer's
    every step would fill the orchestrator's database."""

    def __init__(self, is_main: bool) -> None:
        self.is_main, self.phase, self.said_s = is_main, "", 0.0

    def __call__(self, what: str, share: float) -> None:
        phase, now_s = what.split(",")[0], time.monotonic()
        if self.is_main and (phase != self.phase or share == 1 or now_s - self.said_s >= SECONDS_BETWEEN_LINES):
            self.phase, self.said_s = phase, now_s
            print(f"{100 * share:3.0f} % {what}", flush=True)


def end_with_stdin() -> None:
    """End this process group when whoever holds the other end of standard input is gone, however it went."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[-1] == "--while-stdin-is-open":
        end_with_stdin()
        arguments.pop()
    try:
        main(*arguments)
    except Exception as error:
        told = error if isinstance(error, SoftPromptError) else fault_of_host(error)
        if told is None:
            raise
        if told is not error:
            traceback.print_exc()
        write_whole(Path(arguments[0]).with_suffix(ERROR_SUFFIX), json.dumps([type(told).__name__, str(told)]))
        sys.exit(f"{type(told).__name__}: {told}")
