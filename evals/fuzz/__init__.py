"""What no case says: hypothesis plays guard, ledger and studio in any order; a failure becomes a case."""
