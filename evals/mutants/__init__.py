"""Broken houses that the cases must catch, by layer. A mutant lives in a process while a case is played."""
