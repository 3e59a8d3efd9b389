"""One job in a process of its own, or in several that a launcher starts:

    accelerate launch -m softprompt.worker REQUEST.json FOLDER [--while-stdin-is-open]

The request is a `softprompt.request.Request`; the result is saved in FOLDER. Progress is printed line by line. An
error that a user can act on is printed as one line, written to REQUEST.error, and leaves exit status 1.
"""

import json
import os
import platform
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from softprompt.errors import HostUnusable, SoftPromptError, in_short
from softprompt.files import usable, write_whole
from softprompt.request import ERROR_SUFFIX, Request

SECONDS_BETWEEN_LINES = 10.0
_OF_A_GPU = re.compile(r"CUDA (error|driver)|No CUDA GPUs")
_OF_A_NETWORK = re.compile(r"device-side assert|illegal memory access")
"""Among them what a network may be to blame for."""


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


def in_words(error: Exception) -> SoftPromptError | None:
    """What a user can act on: an error of ours, or a fault of this machine's; None for any other."""
    if isinstance(error, SoftPromptError):
        return error
    is_of_gpu = _OF_A_GPU.search(str(error)) and not _OF_A_NETWORK.search(str(error))
    if not (isinstance(error, ImportError | OSError) or is_of_gpu):
        return None
    reason = in_short(f"{type(error).__name__}: {error}")
    return HostUnusable(f"{platform.node()} cannot do the job ({reason}); mend that, and a later look does it.")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[-1] == "--while-stdin-is-open":
        end_with_stdin()
        arguments.pop()
    try:
        main(*arguments)
    except Exception as error:
        told = in_words(error)
        if told is None:
            raise
        if told is not error:
            traceback.print_exc()
        write_whole(Path(arguments[0]).with_suffix(ERROR_SUFFIX), json.dumps([type(told).__name__, str(told)]))
        sys.exit(f"{type(told).__name__}: {told}")
