"""The worker: a dispatcher and its steps (run the agent, submit, poll, reconcile), and periodic work.

Every step may run twice and be killed anywhere: the ledger decides what is left to do. After a POST another
one follows only on proof that the first cost nothing, or as a documented replay with the same key.
"""
