"""Upgrades and reloads at length, and the memory of a server that is treated badly at length."""
