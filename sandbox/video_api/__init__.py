"""A video provider on loopback with books of its own: the oracle of tests and evals about money."""
