"""CommonsenseQA, answered in the words of the right option, which are listed below the question.

Dataset, paper and quirks: as `commonsense_qa`.
"""

from softprompt.benchmarks.commonsense_qa import CHOICES

BENCHMARK = CHOICES.in_words("commonsense_qa_words")
