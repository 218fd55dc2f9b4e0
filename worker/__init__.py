"""The production line: direct, shoot, watch, sweep, and the providers that it pays.

Every task may run twice and be killed anywhere: the ledger decides what is still to do, and after a POST no
other follows but on proof that the first cost nothing.
"""
