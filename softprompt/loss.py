"""What a prompt learns of an answer: form in full, facts within bounds.

Shapes: B rows, A answer positions.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softprompt.memory import tensor_on

SHARED_BY = 0.99
"""Of the training answers: what so many have is form, be it what ends an answer, GSM8K's '####' or a JSON key."""

Occurrence = tuple[int, int]
"""A token of an answer, and which of its occurrences there: 1 for the first."""


@dataclass(frozen=True)
class Loss:
    """-ln((1 - u) p + u) of a token whose cross-entropy is -ln p: its surprise if a share u of such tokens are facts
    that the checkpoint was never told, of which nothing can be learned. No token costs more than -ln u, and its
    gradient is its cross-entropy's times about p / (p + u), so that answers which the model is sure are others cannot
    outweigh the form of all answers; what is far likelier than u is learned as under cross-entropy, which is u = 0.

    Tokens that all answers share are form: a key that the model finds as unlikely as an unknown fact would never be
    learned so. They cost their cross-entropy, times the share of it that the answer's other tokens keep on average:
    form is learned no faster than what it is the form of. Else the token that ends an answer, alone in being learned in
    full while the answers are still unlikely, would end them before they begin.

    See `docs/decisions/014-bounded-loss.md`.
    """

    unknown_share: float
    shared: frozenset[Occurrence] = frozenset()

    def __call__(self, losses_BA: Tensor, answers: Sequence[Sequence[int]]) -> Tensor:
        """(B, A) of the cross-entropies of the answers' tokens, which may be followed by padding."""
        u = self.unknown_share
        if not u:
            return losses_BA
        bounded_BA = -torch.log1p((1 - u) * torch.expm1(-losses_BA))
        if not self.shared:
            return bounded_BA
        length = losses_BA.shape[1]
        marks = [[it in self.shared for it in occurrences(ids)] + [True] * (length - len(ids)) for ids in answers]
        is_form_BA = tensor_on(losses_BA.device, marks)  # padding costs nothing either way
        kept_BA = (1 - u) * (bounded_BA - losses_BA).detach().exp()  # of its cross-entropy's gradient, by each token
        kept_B1 = kept_BA.where(~is_form_BA, torch.nan).nanmean(1, keepdim=True).nan_to_num(1.0)
        return torch.where(is_form_BA, kept_B1 * losses_BA, bounded_BA)


def shared_tokens(answers: Sequence[Sequence[int]]) -> frozenset[Occurrence]:
    """Those that nearly every answer has, each as often as nearly every answer has it."""
    found = Counter(occurrence for ids in answers for occurrence in occurrences(ids))
    return frozenset(occurrence for occurrence, count in found.items() if count >= SHARED_BY * len(answers))


def occurrences(ids: Sequence[int]) -> Iterator[Occurrence]:
    seen: Counter[int] = Counter()
    for token in ids:
        seen[token] += 1
        yield token, seen[token]
