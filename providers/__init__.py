"""Adapters of video providers, one module each, behind one protocol.

An adapter sends one paid request per `submit`. Whether another may follow is not its decision: the type of
its error says so, and the worker obeys.
"""
