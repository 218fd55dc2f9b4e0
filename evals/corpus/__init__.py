"""The held-out sweep: texts that nobody here wrote, each in every place where a text can reach the house.

A text is the idea, stands in the tool's arguments, or is what the provider says; two models obey it. Whatever
it says, its user pays at most once, and nothing escapes.
"""
