"""Guards for paid tools: argument validation, content policy, and atomic admission in Redis.

All guard state in Redis is written here. A guard refuses in words and never raises, because an exception in
a guard would cancel the good calls of the same turn.
"""
