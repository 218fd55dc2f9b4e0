"""Parts that wait for their move."""
