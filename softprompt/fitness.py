"""Is a network fit to be evaluated? Tried as it is loaded: what does not run as others do would fail in the middle of a
job or, worse, give scores that depend on who shares a pass."""

import torch
from torch import Tensor

from softprompt import processes
from softprompt.decode import answer
from softprompt.errors import BadCheckpoint, in_short
from softprompt.host import fault_of_host
from softprompt.memory import is_out_of_memory
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import TOKEN, Prompt
from softprompt.trials import NEGLIGIBLE, are_near

NUM_PAIRS = 8
"""Of prompts that are tried before a network is refused. In bfloat16 rounding now and then sends a token to other
experts, for one pair of a few; what takes padding for text does so with all."""
ROUNDING = 4
"""Steps between neighbouring numbers of the network's kind, at its largest logit, that are no difference: what a
checkpoint says early in its training hardly depends on the prompt."""
LOWEST = -1e6
"""For minus infinity, which some networks say of tokens that they never say."""


def check_fitness(model: LanguageModel, uri: str) -> None:
    """Answer short prompts.

    Raises:
        BadCheckpoint: the network does not run as others do.
    """
    name, remedy = type(model.network).__name__, "docs/architectures.md says what one must do"
    doubt = ""
    for number in range(NUM_PAIRS):
        try:
            # Of all processes, which may round differently and must go on together.
            doubt = next(filter(None, processes.everyones(_doubt(model, number))), "")
        except Exception as error:  # whatever its code may raise
            if is_out_of_memory(error):
                raise
            if fault := fault_of_host(error):
                raise fault from error
            reason = f"{type(error).__name__}: {in_short(str(error))}"
            raise BadCheckpoint(
                f"{uri}: its network, {name}, cannot be evaluated here ({reason}); {remedy}."
            ) from error
        if not doubt:
            return
    raise BadCheckpoint(f"{uri}: its network, {name}, {doubt}; {remedy}.")


def _doubt(model: LanguageModel, number: int) -> str:
    """What speaks against the network, by a pair of prompts read alone and together; empty if nothing does."""
    ids = [(20 * number + i) % model.num_tokens for i in range(20)]
    short, long = (Prompt(ids=its, slots=[TOKEN] * len(its), head_length=2) for its in (ids[:4], ids[4:]))
    prefill = Prefill(model)
    short_V, long_V = (_bounded(prefill.read([prompt]).logits_BV[0]) for prompt in (short, long))
    padded_V, behind_V = _bounded(prefill.read([short, long]).logits_BV)  # behind heads that have been read
    answer(prefill, [short, long], max_new_tokens=2, candidates=[[ids[:2], ids[1:3]]] * 2)
    plain_TV, part_TV = _plain_logits(model, long.ids), _plain_logits(model, long.ids[:6])
    if not plain_TV.isfinite().all():
        return f"gives infinite logits or none in {model.network.dtype}, though its weights are finite"
    rounding = ROUNDING * torch.finfo(model.network.dtype).eps * plain_TV[plain_TV > LOWEST].abs().max()
    scale = torch.maximum((long_V - short_V).abs().max(), rounding / NEGLIGIBLE)
    if not are_near(part_TV[-1], plain_TV[5], scale):
        return "sees what follows a position, as no language model that is read from left to right does"
    if not are_near(padded_V, short_V, scale):
        return "takes padding for text, so that scores would depend on which prompts share a pass"
    if not (are_near(long_V, plain_TV[-1], scale) and are_near(behind_V, plain_TV[-1], scale)):
        return "says something else where positions are counted from 0 than where it counts them itself"
    return ""


@torch.no_grad()
def _plain_logits(model: LanguageModel, ids: list[int]) -> Tensor:
    """(T, V) of the network's own forward pass, which is told nothing but the tokens."""
    logits_1TV: Tensor = model.network(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return _bounded(logits_1TV[0])


def _bounded(logits: Tensor) -> Tensor:
    return logits.clamp(min=LOWEST)
