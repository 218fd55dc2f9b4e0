"""Content policy: which ideas may become a video."""
