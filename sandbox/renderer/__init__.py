"""The preview renderer: turns one video request into a short film, in a process that may be killed.

It imports PyAV, Pillow and the names of emoji, nothing heavier, touches only the folder of its job, and draws
the same film for the same request.
"""
