"""The sweep: plays any file of texts in every slot where a text can reach the app.

A text is the idea, a part of the tool's arguments, or the provider's answer, and two models obey it. Whatever
it says, its user pays at most once and no exception escapes.
"""
