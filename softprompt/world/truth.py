"""What a variant truly knows, asked in the form in which it learned it: declarative cloze."""

from statistics import fmean

from softprompt.decode import answer
from softprompt.models import LanguageModel
from softprompt.prefill import Prefill
from softprompt.prompt import plain_prompt
from softprompt.world.facts import ATTRIBUTES, World


def known_share(model: LanguageModel, world: World) -> dict[str, float]:
    """Per attribute, the share of test people's facts that the model completes rightly: the value that it finds most
    likely behind each statement's front ('Mira Talon was born in'), averaged over the four statements."""
    truth = {}
    for attribute in ATTRIBUTES:
        fronts = [
            (statement.format(person=person, value="").rstrip(), world.facts[person, attribute.name])
            for statement in attribute.statements
            for person in world.test
        ]
        _, scores = answer(
            Prefill(model),
            [plain_prompt(model, front) for front, _ in fronts],
            max_new_tokens=1,
            candidates=[[model.continuation(front, f" {value}") for value in attribute.values] for front, _ in fronts],
            micro_batch=512,
        )
        truth[attribute.name] = fmean(
            attribute.values[max(range(len(found)), key=found.__getitem__)] == value
            for (_, value), found in zip(fronts, scores, strict=True)
        )
    return truth
