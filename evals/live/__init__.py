"""Live evals: a real model drives the house; everything else, the provider first of all, stays on loopback.

What it may cost is bounded outside the model's reach: no request is sent that a cap has no room for.
"""
