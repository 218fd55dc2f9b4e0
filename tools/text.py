"""Text of users, models and providers, shortened for columns and messages."""


def trimmed(text: str, most: int) -> str:
    """Return `text` on one line of at most `most` characters, cut at a word if possible."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + "…"


def storable(text: str, most: int) -> str:
    """Return at most `most` characters of foreign text, fit for a column: no lone surrogate, no NUL."""
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "")
