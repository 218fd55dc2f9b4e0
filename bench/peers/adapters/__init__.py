"""One module per library: how its own author would arm the paid tool with it."""
