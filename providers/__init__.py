"""Companies that make videos, one file each behind one protocol.

An adapter puts one request on the wire per `submit` and never decides whether another may follow: the
type of its error says so, and the studio obeys.
"""
