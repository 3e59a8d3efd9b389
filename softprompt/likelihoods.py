"""How likely a model finds given answers behind prompts that have been read.

A prompt's candidates stand in one row, one behind another, and each sees the prompt and itself only: so the prompt's
keys and values are not copied for every candidate. Networks that cannot be told what each position sees (a state
instead of keys and values, distances counted in columns) get a row for every candidate instead.

Shapes: B rows, T positions read, Q new positions, V vocabulary.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from softprompt.memory import MicroBatches
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill, Reading, passes
from softprompt.trials import are_near, supports


@dataclass(frozen=True)
class CandidateRow:
    """Candidates that share a row, behind the prompt in row `prompt` of a reading."""

    prompt: int
    numbers: list[int]
    """Of the candidates, among those of their prompt."""
    candidates: list[list[int]]
    """Token ids, two or more each."""

    def __len__(self) -> int:
        """New positions: a candidate's last token is no input."""
        return sum(len(ids) - 1 for ids in self.candidates)


def log_likelihoods(
    prefill: Prefill, read: Reading, candidates: Sequence[Sequence[list[int]]], micro_batches: MicroBatches
) -> list[list[float]]:
    """Log-likelihood (nats) of every candidate behind its prompt. A candidate's first token is read off the prompt;
    only longer candidates need a pass."""
    model = prefill.model
    first_BV = read.logits_BV.float().log_softmax(-1)
    firsts = [(row, ids[0]) for row, found in enumerate(candidates) for ids in found]
    of_firsts = iter(first_BV[tuple(torch.tensor(firsts, device=model.device).T)].tolist() if firsts else [])
    scores = [[next(of_firsts) for _ in found] for found in candidates]
    longer = [[i for i, ids in enumerate(found) if len(ids) > 1] for found in candidates]
    longest = read.mask_BT.shape[1] + max((len(ids) for found in candidates for ids in found), default=0)
    if longest <= model.window and takes_masks(model):
        rows = [CandidateRow(p, own, [candidates[p][i] for i in own]) for p, own in enumerate(longer) if own]
    else:
        rows = [CandidateRow(p, [i], [candidates[p][i]]) for p, own in enumerate(longer) for i in own]

    def work(chunk: Sequence[CandidateRow]) -> list[tuple[CandidateRow, list[float]]]:
        num_new = sum(map(len, chunk))
        prefill.meter.count(model, num_new, num_new)
        return list(zip(chunk, _totals(model, read, chunk), strict=True))

    def num_bytes(row: CandidateRow) -> float:
        return model.pass_bytes(read.mask_BT.shape[1] + len(row), len(row))

    for group in passes(rows, model.device):
        for row, totals in itertools.chain.from_iterable(micro_batches.run(group, num_bytes, work)):
            for number, total in zip(row.numbers, totals, strict=True):
                scores[row.prompt][number] += total
    return scores


@torch.no_grad()
def _totals(model: LanguageModel, read: Reading, rows: Sequence[CandidateRow]) -> list[list[float]]:
    """Of every candidate the log-likelihood of its tokens after the first."""
    device = model.device
    prompts_B = torch.tensor([row.prompt for row in rows], device=device)
    inputs_BQ = _padded(([t for ids in row.candidates for t in ids[:-1]] for row in rows), device)
    targets_BQ = _padded(([t for ids in row.candidates for t in ids[1:]] for row in rows), device)
    cache, mask_BT = select_rows(read.cache, prompts_B), read.mask_BT[prompts_B]
    if all(len(row.candidates) == 1 for row in rows):
        logits_BQV, _ = model.forward(
            input_ids=inputs_BQ,
            mask_BT=torch.cat([mask_BT, torch.ones_like(inputs_BQ)], dim=1),
            cache=cache,
            num_logits=inputs_BQ.shape[1],
        )
    else:
        logits_BQV = _logits_in_one_row(model, rows, inputs_BQ, mask_BT, cache)
    found_BQ = logits_BQV.float().log_softmax(-1).gather(-1, targets_BQ[..., None])[..., 0].tolist()
    totals = []
    for row, values in zip(rows, found_BQ, strict=True):
        rest = iter(values)
        totals.append([sum(next(rest) for _ in ids[1:]) for ids in row.candidates])
    return totals


def _logits_in_one_row(
    model: LanguageModel, rows: Sequence[CandidateRow], inputs_BQ: Tensor, mask_BT: Tensor, cache: Any
) -> Tensor:
    """(B, Q, V) logits where each candidate sees its prompt and itself only, and follows the prompt by position."""
    owners = [[number for number, ids in enumerate(row.candidates) for _ in ids[1:]] for row in rows]
    places = [[place for ids in row.candidates for place in range(len(ids) - 1)] for row in rows]
    owners_BQ, places_BQ = (_padded(values, model.device) for values in (owners, places))
    own_BQQ = (owners_BQ[:, :, None] == owners_BQ[:, None]).tril()
    sees_BQT = torch.cat([mask_BT[:, None].bool().expand(-1, own_BQQ.shape[1], -1), own_BQQ], dim=2)
    dtype = model.network.dtype
    mask_BQT = torch.zeros(sees_BQT.shape, dtype=dtype, device=model.device).masked_fill(
        ~sees_BQT, torch.finfo(dtype).min
    )
    return model.network(
        input_ids=inputs_BQ,
        attention_mask=mask_BQT[:, None],
        position_ids=mask_BT.sum(1, keepdim=True) + places_BQ,
        past_key_values=cache,
        use_cache=True,
    ).logits


def takes_masks(model: LanguageModel) -> bool:
    """Whether the network lets each position see exactly what a mask says; found out by trying, since it is declared
    nowhere and code from elsewhere may do anything with a mask."""
    is_out = model.window == 0 or model.is_recurrent or model.attention == "flex_attention"  # whose kernel would crash
    return not is_out and supports(model, _proves_to_take_masks)


def _proves_to_take_masks(model: LanguageModel) -> bool:
    """Two candidates behind a prompt, in one row and each in its own: what differs must be next to nothing of what the
    first would do to the second if it were seen."""
    ids = [i % model.num_tokens for i in range(10)]
    prompt, first, second = ids[:4], ids[4:7], ids[7:]

    def alone(*parts: list[int]) -> Tensor:
        ids_1T = torch.tensor([[*itertools.chain(*parts)]], device=model.device)
        return model.forward(input_ids=ids_1T, mask_BT=torch.ones_like(ids_1T), num_logits=2)[0]

    def read() -> tuple[Tensor, Any]:
        ids_1T = torch.tensor([prompt], device=model.device)
        mask_1T = torch.ones_like(ids_1T)
        return mask_1T, model.forward(input_ids=ids_1T, mask_BT=mask_1T, num_logits=1)[1]

    inputs_1Q = torch.tensor([first[:-1] + second[:-1]], device=model.device)
    together_1QV = _logits_in_one_row(model, [CandidateRow(0, [0, 1], [first, second])], inputs_1Q, *read())
    expected_1AV = alone(prompt, second[:-1])
    effect = (alone(prompt, first[:-1], second[:-1]) - expected_1AV).abs().max()
    return are_near(together_1QV[:, -2:], expected_1AV, effect)


def select_rows(cache: Any, rows: Tensor) -> Any:
    """A cache that holds the given rows of `cache`, which stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [_own(layer) for layer in cache.layers]
    chosen.reorder_cache(rows)
    return chosen


def _own(layer: Any) -> Any:
    """A copy whose states can be exchanged; recurrent layers (Mamba) keep theirs in dictionaries."""
    own = copy.copy(layer)
    vars(own).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
    return own


def _padded(rows: Iterable[Sequence[int]], device: torch.device) -> Tensor:
    """(B, Q) integers, zeros behind the shorter rows."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
