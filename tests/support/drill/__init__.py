"""A fault drill: backends of a proxy under steady load are killed, slowed and broken, then healed.

``python -m tests.support.drill --help`` runs it in its long form.
"""
