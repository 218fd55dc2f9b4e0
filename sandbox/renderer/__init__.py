"""The preview renderer: turns one take into a storyboard film, in a process of its own that may be killed.

It imports PyAV and Pillow and nothing heavier, talks to nobody but the folder of its job, and draws the same
film for the same take.
"""
