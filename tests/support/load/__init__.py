"""Steady load on a server that is upgraded, reloaded or hurt meanwhile, every failure counted.

``clients`` of all sorts talk to a proxy (``program``) in front of an ``origin``; a ``crew`` runs
many of them, in the same process or, with ``process``, in one of their own.
"""
