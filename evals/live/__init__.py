"""Live evals: a real model drives the app; everything else, above all the provider, stays on loopback.

The cost is limited outside the model's reach: a request that would exceed a cap is never sent.
"""
