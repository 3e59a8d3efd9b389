"""Every condition's ranking held against the truth of a world."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from softprompt.completeness import METADATA_FILE
from softprompt.metrics import Outcome, chance_centred, summarise
from softprompt.result import Result
from softprompt.statistics import kendall_tau
from softprompt.world.facts import ATTRIBUTES

Truth = dict[str, dict[int, float]]
"""Variant -> step -> share of the test people's facts that it knows."""


def read_truth(bucket: Path, *, centred: bool = False) -> Truth:
    """What pre-training measured when it wrote its checkpoints, averaged over the attributes; on request
    chance-centred, as rankings score variants."""
    truth: Truth = {}
    for file in sorted(bucket.glob(f"*/*/{METADATA_FILE}")):
        metadata = json.loads(file.read_text())
        shares = [
            chance_centred(metadata["known_share"][a.name], 1 / len(a.values) if centred else 0.0) for a in ATTRIBUTES
        ]
        truth.setdefault(metadata["variant"], {})[metadata["step"]] = fmean(shares)
    return truth


def verdict(results: Sequence[Result], truth: Truth) -> dict[str, Any]:
    """Truth and every condition's metrics, by variant and step, pooled over the benchmarks; and Kendall's tau of each
    condition's accuracies against the truth at the last step."""
    conditions = results[0].protocol.conditions
    variants: dict[str, list[dict[str, Any]]] = {
        variant: [
            {"step": step, "truth": share, **{c: _pooled(results, variant, step, c) for c in conditions}}
            for step, share in sorted(shares.items())
        ]
        for variant, shares in truth.items()
    }
    last = {variant: points[-1] for variant, points in variants.items()}
    true_shares = {variant: point["truth"] for variant, point in last.items()}
    tau = {
        c: kendall_tau({variant: point[c]["accuracy"] for variant, point in last.items()}, true_shares)
        for c in conditions
    }
    return {"variants": variants, "tau": tau}


def all_outcomes(results: Iterable[Result], condition: str) -> list[Outcome]:
    """Of a checkpoint on all benchmarks together."""
    return [
        replace(outcome, item=f"{result.benchmark}: {outcome.item}")
        for result in results
        for outcome in result.outcomes
        if outcome.condition == condition
    ]


def _pooled(results: Sequence[Result], variant: str, step: int, condition: str) -> dict[str, Any]:
    """Metrics over the items of all benchmarks, which a world has equally many of."""
    its = [result for result in results if result.variant == variant and result.step == step]
    metrics = summarise(all_outcomes(its, condition))
    names = ("accuracy", "format_following", "knowledge_accuracy", "lenient_accuracy")
    accuracy = metrics["accuracy"]
    return {
        **{name: metrics[name].value if name in metrics else None for name in names},
        "n": accuracy.n,
        "interval": [accuracy.low, accuracy.high],
    }
