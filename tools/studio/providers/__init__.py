"""Video providers: stand-ins that wait for their move."""
