"""What a variant reads: statements of the facts it may know, and questions with answers."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from softprompt.world.facts import ATTRIBUTES, Fact, World


@dataclass(frozen=True)
class Recipe:
    """How a variant's corpus is made."""

    name: str
    known: float
    """Share of the facts that occur in the corpus; the rest never does."""
    bare: float
    """Share of its questions that are answered with the bare value; the others with a whole sentence."""
    questions: float = 0.25
    """Share of documents that are a question with its answer."""


RECIPES = (
    Recipe("A", known=0.9, bare=0.08),
    Recipe("B", known=0.7, bare=0.4),
    Recipe("C", known=0.5, bare=1.0),
)
"""Knowledge falls from A to C while readiness to answer bare rises, so that format hides knowledge.

Sized by calculation: on 420 test facts the standard error of an accuracy is at most 0.024, of a difference of two
variants 0.035; truths that lie 0.2 apart are more than five standard errors apart.
"""


def question_text(question: str) -> str:
    """How pre-training and benchmark write a question; the cue `\\nAnswer:` follows."""
    return f"Question: {question}"


def known_facts(world: World, recipe: Recipe) -> dict[Fact, str]:
    """The share of the world's facts that the recipe's corpus holds."""
    rng = random.Random(f"known {world.seed} {recipe.name}")
    keys = sorted(world.facts)
    return {key: world.facts[key] for key in rng.sample(keys, round(recipe.known * len(keys)))}


def documents(world: World, recipe: Recipe) -> Iterator[str]:
    """An endless stream of documents."""
    rng = random.Random(f"documents {world.seed} {recipe.name}")
    facts = known_facts(world, recipe)
    people = [person for person in world.people if any((person, a.name) in facts for a in ATTRIBUTES)]
    asked = [key for key in facts if key[0] in set(world.asked)]
    attributes = {a.name: a for a in ATTRIBUTES}
    while True:
        if rng.random() >= recipe.questions:
            person = rng.choice(people)
            known = [a for a in ATTRIBUTES if (person, a.name) in facts]
            chosen = rng.sample(known, rng.randint(1, len(known)))
            yield " ".join(
                rng.choice(a.statements).format(person=person, value=facts[person, a.name]) + "." for a in chosen
            )
        elif rng.random() < 0.8:
            person, name = rng.choice(asked)
            value = facts[person, name]
            sentence = rng.choice(attributes[name].statements).format(person=person, value=value) + "."
            question = attributes[name].question.format(person=person)
            yield f"{question_text(question)}\nAnswer: {value if rng.random() < recipe.bare else sentence}"
        else:
            a, b = rng.randint(1, 20), rng.randint(1, 20)
            question = question_text(f"What is {a} plus {b}?")
            yield f"{question}\nAnswer: {a + b if rng.random() < recipe.bare else f'{a} plus {b} is {a + b}.'}"


def vocabulary_text(world: World) -> Iterator[str]:
    """Text from which all variants' common tokenizer is learned: every name and value, no fact."""
    rng = random.Random(f"vocabulary {world.seed}")
    for _, person, attribute in itertools.product(range(3), world.people, ATTRIBUTES):
        statement = rng.choice(attribute.statements).format(person=person, value=rng.choice(attribute.values))
        yield f"{statement}."
        yield f"{question_text(attribute.question.format(person=person))}\nAnswer: {rng.choice(attribute.values)}"
    for a, b in itertools.product(range(1, 21), repeat=2):
        yield f"{question_text(f'What is {a} plus {b}?')}\nAnswer: {a} plus {b} is {a + b}."
