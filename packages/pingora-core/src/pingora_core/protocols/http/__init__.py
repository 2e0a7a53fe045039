"""HTTP sessions, whatever the version."""
