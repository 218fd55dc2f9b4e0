"""Shortens text of users, models and providers for columns and messages."""


def trimmed(text: str, most: int) -> str:
    """Return `text` on one line, at most `most` characters, cut at a word where there is one."""
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return line[: most - 1].rsplit(" ", 1)[0].rstrip(",;:.") + "…"


def storable(text: str, most: int) -> str:
    """Return at most `most` characters of text that we did not write, without what no column can hold: a lone
    surrogate, a NUL.
    """
    return text[:most].encode("utf-8", "replace").decode().replace("\0", "")
