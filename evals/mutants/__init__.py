"""Seeded bugs that the cases must catch, by layer. A mutant patches its process while a case is played."""
