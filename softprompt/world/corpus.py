"""What a variant is made of: statements of the facts it may know, questions with answers, the size of its model."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from softprompt.world.facts import ATTRIBUTES, Fact, World


@dataclass(frozen=True)
class Recipe:
    """How a variant is made."""

    name: str
    known: float
    """Share of the facts that occur in the corpus; the rest never does."""
    bare: float
    """Share of its questions that are answered with the bare value; the others with a whole sentence."""
    questions: float = 0.25
    """Share of documents that are a question with its answer."""
    width: int = 128
    """Of its model."""
    order: int = 0
    """Seed of what it reads and when: another one brings other documents about the same facts."""
    twin_of: str = ""
    """Variant whose facts, documents and first weights it has, but for what their recipes tell apart."""

    @property
    def origin(self) -> str:
        """Name from which facts, documents and first weights follow."""
        return self.twin_of or self.name


RECIPES = (
    Recipe("A", known=0.9, bare=0.08),
    Recipe("B", known=0.7, bare=0.4),
    Recipe("C", known=0.5, bare=1.0),
)
"""Knowledge falls from A to C while readiness to answer bare rises, so that format hides knowledge.

Sized by calculation: on 420 test facts the standard error of an accuracy is at most 0.024, of a difference of two
variants 0.035; truths that lie 0.2 apart are more than five standard errors apart.
"""

FAMILY = (
    *RECIPES,
    Recipe("D", known=0.9, bare=1.0, twin_of="A"),
    Recipe("E", known=0.7, bare=0.4, twin_of="B", width=96),
    Recipe("F", known=0.5, bare=1.0, twin_of="C", order=1),
    Recipe("G", known=0.5, bare=0.08, twin_of="C"),
    Recipe("H", known=0.3, bare=0.4),
)
"""Variants that differ in knowledge, format, width and order: the recipes above, a twin for each of the other three
differences, and one that knows less than all.

Sized by calculation, as above. Of the 28 pairs, 23 lie at least 0.2 apart by their recipes, which is more than five
standard errors; the five pairs of one level are told apart by nothing, or by what a narrower model fails to learn
(B and E). Across the family `known` and `bare` are uncorrelated (-0.05), so that a score that reads readiness alone
ranks at random here, where it ranks A, B and C backwards. The tau of a random ranking of eight has a standard deviation
of 0.29, its mean over three worlds one of 0.17.
"""


CUE = "\nAnswer:"
"""Behind every question."""


def question_text(question: str) -> str:
    """How training and benchmark write a question; the cue follows."""
    return f"Question: {question}"


def known_facts(world: World, recipe: Recipe) -> dict[Fact, str]:
    """The share of the world's facts that the recipe's corpus holds."""
    rng = random.Random(f"known {world.seed} {recipe.origin}")
    keys = sorted(world.facts)
    return {key: world.facts[key] for key in rng.sample(keys, round(recipe.known * len(keys)))}


def documents(world: World, recipe: Recipe) -> Iterator[str]:
    """An endless stream of documents."""
    order = f" {recipe.order}" if recipe.order else ""
    rng = random.Random(f"documents {world.seed} {recipe.origin}{order}")
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
            yield f"{question_text(question)}{CUE} {value if rng.random() < recipe.bare else sentence}"
        else:
            a, b = rng.randint(1, 20), rng.randint(1, 20)
            question = question_text(f"What is {a} plus {b}?")
            yield f"{question}{CUE} {a + b if rng.random() < recipe.bare else f'{a} plus {b} is {a + b}.'}"


def vocabulary_text(world: World) -> Iterator[str]:
    """Text from which all variants' common tokenizer is learned: every name and value, no fact."""
    rng = random.Random(f"vocabulary {world.seed}")
    for _, person, attribute in itertools.product(range(3), world.people, ATTRIBUTES):
        statement = rng.choice(attribute.statements).format(person=person, value=rng.choice(attribute.values))
        yield f"{statement}."
        yield f"{question_text(attribute.question.format(person=person))}{CUE} {rng.choice(attribute.values)}"
    for a, b in itertools.product(range(1, 21), repeat=2):
        yield f"{question_text(f'What is {a} plus {b}?')}{CUE} {a} plus {b} is {a + b}."
