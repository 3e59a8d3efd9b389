"""The Knowledge World: invented people, facts about them, and tiny models of which it is known what they know.

A test bench for the method: variants are pre-trained on corpora that differ in how many facts they hold (knowledge) and
in how their questions are answered (format), so that scores that mix the two rank the variants wrongly.
"""
