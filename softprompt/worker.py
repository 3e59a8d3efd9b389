"""One job in a process of its own, or in several that a launcher starts:

    accelerate launch -m softprompt.worker REQUEST.json FOLDER

The request holds what `softprompt.evaluate` takes; the result is saved in FOLDER, whole or not at all. Progress is
printed line by line. An error that a user can act on is printed last, as one line, and leaves exit status 1.
"""

import json
import sys
from pathlib import Path

from softprompt import benchmarks, processes
from softprompt.checkpoints import Checkpoint
from softprompt.errors import SoftPromptError
from softprompt.evaluation import evaluate
from softprompt.protocol import Protocol, Resources


def main(request_file: str, folder: str) -> None:
    request = json.loads(Path(request_file).read_text())
    result = evaluate(
        Checkpoint(**request["checkpoint"]),
        benchmarks.get(request["benchmark"], request["benchmark_folder"]),
        Protocol.from_dict(request["protocol"]),
        resources=Resources.from_dict(request["resources"]),
        mirror=request["mirror"],
        tokenizer=request["tokenizer"],
        progress=say,
    )
    if processes.is_main():
        result.save(folder)


def say(what: str, share: float) -> None:
    if processes.is_main():
        print(f"{100 * share:3.0f} % {what}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except SoftPromptError as error:
        sys.exit(f"{type(error).__name__}: {error}")
