"""Tests of the active health checks."""
