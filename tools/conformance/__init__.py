"""The foreign test suites behind ``tools/dev conformance``, run against our servers."""
