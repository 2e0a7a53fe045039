"""What stands behind ``tools/dev``: standard library only, so that any Python 3.11 can start it."""
