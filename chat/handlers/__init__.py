"""Handlers of messages and taps; one router per module."""
