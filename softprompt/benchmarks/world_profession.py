"""The Knowledge World: what invented people work as, answered with the bare profession out of 20.

Dataset and quirks: as `world_birthplace`.
"""

from dataclasses import replace

from softprompt.benchmarks.world_birthplace import BENCHMARK as BIRTHPLACE

BENCHMARK = replace(BIRTHPLACE, name="world_profession", config="profession", chance=1 / 20)
