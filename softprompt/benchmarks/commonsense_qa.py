"""CommonsenseQA, answered by letter: everyday questions with 5 options of one or two words.

Dataset: https://huggingface.co/datasets/tau/commonsense_qa, MIT.
Paper: Talmor et al., "CommonsenseQA", arXiv:1811.00937.
Quirks: the test split has no public labels; the validation split is the test split here.
"""

from softprompt.benchmarks.arc_easy import to_choice  # the rows are of the same shape
from softprompt.options import Choices

CHOICES = Choices(path="tau/commonsense_qa", test_split="validation", chance=1 / 5, to_choice=to_choice)
BENCHMARK = CHOICES.by_letter("commonsense_qa")
