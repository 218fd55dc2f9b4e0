"""Adversarial evals of the whole app, scored by the provider's own charge log.

Cases are YAML in `cases/`, adversaries are models in `adversaries/`, and `mutants/` holds seeded bugs that
the cases must catch. Evals never call a real provider and are not part of the wheel.
"""
