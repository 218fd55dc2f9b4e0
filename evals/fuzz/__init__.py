"""Fuzzing: hypothesis drives guard, ledger and worker in any order; a failure is printed as a case."""
