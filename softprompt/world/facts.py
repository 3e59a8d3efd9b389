"""People, attributes, facts: everything that is true in a world, decided by its seed."""

import random
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Attribute:
    """Something every person has one value of. Every statement ends in the value, so that its front is a cloze."""

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    question: str


ATTRIBUTES = (
    Attribute(
        name="birthplace",
        values=(
            *("Oslo", "Lima", "Cairo", "Quito", "Delhi", "Tunis", "Seoul", "Accra", "Hanoi", "Paris"),
            *("Dakar", "Sofia", "Milan", "Kyoto", "Porto", "Havana", "Dublin", "Riga", "Basel", "Perth"),
        ),
        statements=(
            "{person} was born in {value}",
            "The birthplace of {person} is {value}",
            "{person} comes from the city of {value}",
            "The town where {person} was born is {value}",
        ),
        question="Where was {person} born?",
    ),
    Attribute(
        name="profession",
        values=(
            *("baker", "lawyer", "painter", "farmer", "dentist", "sailor", "pilot", "tailor", "singer", "miner"),
            *("nurse", "judge", "barber", "potter", "writer", "chemist", "butcher", "teacher", "plumber", "guard"),
        ),
        statements=(
            "{person} works as a {value}",
            "The profession of {person} is {value}",
            "{person} earns a living as a {value}",
            "The job that {person} has is {value}",
        ),
        question="What is the profession of {person}?",
    ),
    Attribute(
        name="pet",
        values=("cat", "dog", "horse", "parrot", "rabbit", "turtle", "hamster", "goose", "snake", "pony"),
        statements=(
            "{person} keeps a {value}",
            "The pet of {person} is a {value}",
            "{person} lives with a {value}",
            "The animal that {person} owns is a {value}",
        ),
        question="Which pet does {person} have?",
    ),
)

Fact = tuple[str, str]
"""(person, attribute name)"""


@dataclass(frozen=True)
class World:
    """A world of `num_asked` people whom pre-training asks about, and others whom only the benchmark asks about."""

    seed: int
    num_asked: int = 60
    num_train: int = 100
    num_test: int = 140

    @cached_property
    def people(self) -> tuple[str, ...]:
        """Invented people, each with a surname of their own: those asked about, then the benchmark's train split, then
        its test split."""
        rng = random.Random(f"people {self.seed}")
        syllables = [c + v for c in ("b", "d", "f", "g", "k", "l", "m", "n", "r", "s", "t", "v", "z") for v in "aeiou"]
        firsts = ["".join(rng.sample(syllables, 2)).capitalize() for _ in range(40)]
        surnames: dict[str, None] = {}
        while len(surnames) < self.num_asked + self.num_train + self.num_test:
            surnames["".join(rng.sample(syllables, 2)).capitalize() + rng.choice("nlrsm")] = None
        return tuple(f"{rng.choice(firsts)} {surname}" for surname in surnames)

    @property
    def asked(self) -> tuple[str, ...]:
        return self.people[: self.num_asked]

    @property
    def train(self) -> tuple[str, ...]:
        return self.people[self.num_asked : self.num_asked + self.num_train]

    @property
    def test(self) -> tuple[str, ...]:
        return self.people[self.num_asked + self.num_train :]

    @cached_property
    def facts(self) -> dict[Fact, str]:
        """The value of every attribute of every person."""
        rng = random.Random(f"facts {self.seed}")
        return {(person, a.name): rng.choice(a.values) for person in self.people for a in ATTRIBUTES}
