"""The contenders, see `against_peers.py`."""

from collections.abc import Callable
from functools import partial

from answering import answer_lm_eval, answer_softprompt, score_lm_eval, score_softprompt
from measured import Measured
from tuning import tune_peft, tune_softprompt
from workload import Workload

CONTENDERS: dict[str, Callable[[Workload], Measured]] = {
    "tune/peft": tune_peft,
    "tune/prefix": partial(tune_softprompt, placement="prefix"),
    "tune/cue, questions new": partial(tune_softprompt, placement="cue"),
    "tune/cue, questions cached": partial(tune_softprompt, placement="cue", num_epochs=2),
    "tune/prefix, 3 seeds": partial(tune_softprompt, placement="prefix", seeds=(0, 1, 2)),
    "tune/cue, 3 seeds": partial(tune_softprompt, placement="cue", seeds=(0, 1, 2)),
    "zero-shot/lm-eval": answer_lm_eval,
    "zero-shot/ours": answer_softprompt,
    "few-shot/lm-eval": lambda work: answer_lm_eval(work, work.num_shots),
    "few-shot/ours": lambda work: answer_softprompt(work, work.num_shots),
    "options/lm-eval": score_lm_eval,
    "options/ours": score_softprompt,
}


def measure(name: str, work: Workload) -> Measured:
    return CONTENDERS[name](work)
