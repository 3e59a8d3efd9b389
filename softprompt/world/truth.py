"""What a variant truly knows, asked in the form in which it learned it: declarative cloze."""

from statistics import fmean

from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import plain_prompt
from softprompt.world.facts import ATTRIBUTES, Fact, World


def known_share(model: LanguageModel, world: World) -> dict[str, float]:
    """Per attribute, the share of test people's facts that the model completes rightly, averaged over statements."""
    known = known_by_fact(model, world)
    return {a.name: fmean(share for (_, name), share in known.items() if name == a.name) for a in ATTRIBUTES}


def known_by_fact(model: LanguageModel, world: World) -> dict[Fact, float]:
    """For every fact of a test person, the share of its four statements that the model completes rightly: it finds the
    true value most likely behind the statement's front ('Mira Talon was born in')."""
    known = {}
    for attribute in ATTRIBUTES:
        fronts = [
            (person, statement.format(person=person, value="").rstrip())
            for person in world.test
            for statement in attribute.statements
        ]
        _, scores = answer(
            Prefill(model),
            [plain_prompt(model, front) for _, front in fronts],
            max_new_tokens=1,
            candidates=[[model.continuation(front, f" {value}") for value in attribute.values] for _, front in fronts],
            micro_batch=512,
        )
        found = [attribute.values[max(range(len(row)), key=row.__getitem__)] for row in scores]
        num = len(attribute.statements)
        for i, person in enumerate(world.test):
            fact = person, attribute.name
            known[fact] = fmean(value == world.facts[fact] for value in found[i * num : (i + 1) * num])
    return known
