"""These tests run on uvloop and on asyncio."""

from tests.support.loops import no_leaks, pytest_asyncio_loop_factories

__all__ = ["no_leaks", "pytest_asyncio_loop_factories"]
