"""Cases of an agent of another application: plain SDK, no ledger of ours, guards by the library alone."""
