"""ARC-Challenge, answered by letter: grade-school science questions that retrieval and co-occurrence get wrong.

Dataset: https://huggingface.co/datasets/allenai/ai2_arc (ARC-Challenge), CC BY-SA 4.0.
Paper: Clark et al., "Think you have Solved Question Answering? Try ARC", arXiv:1803.05457.
Quirks: as `arc_easy`.
"""

from softprompt.benchmarks.arc_easy import to_choice
from softprompt.options import Choices

CHOICES = Choices(path="allenai/ai2_arc", config="ARC-Challenge", chance=0.25, to_choice=to_choice)
BENCHMARK = CHOICES.by_letter("arc_challenge")
