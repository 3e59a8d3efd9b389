"""The Knowledge World: which animal invented people keep, answered with the bare animal out of 10.

Dataset and quirks: as `world_birthplace`.
"""

from dataclasses import replace

from softprompt.benchmarks.world_birthplace import BENCHMARK as BIRTHPLACE

BENCHMARK = replace(BIRTHPLACE, name="world_pet", config="pet", chance=1 / 10)
