"""Attacks on the whole house, and the score: what the provider's own charge log says was paid.

Cases are YAML in `cases/`, adversaries are models in `policies/`, broken houses that must be caught are in
`mutants/`. This room never touches a real provider and is not part of the wheel.
"""
