"""Handlers of what people send and tap: one router a module."""
