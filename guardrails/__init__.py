"""What a tool may do: admission (policies, one Lua script, its keys) and the content policy.

All guard state in Redis lives here. A guard refuses with words and figures; it never raises, because an
exception in a guard would cancel the good call beside it.
"""
