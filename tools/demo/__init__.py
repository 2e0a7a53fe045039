"""The demonstration behind ``tools/dev demo``: the quick start against two local origins."""
