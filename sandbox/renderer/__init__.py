"""The preview renderer: turns one video request into a storyboard film, in a process that may be killed.

It imports PyAV and Pillow and nothing heavier, touches only the folder of its job, and draws the same film
for the same request.
"""
