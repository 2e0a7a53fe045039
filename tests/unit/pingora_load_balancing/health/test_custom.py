"""A check of the user's own is a function with a deadline."""

from __future__ import annotations

import asyncio

import pytest

from pingora_error import Custom, Error, ErrorSource, ErrorType
from pingora_load_balancing import Backend
from pingora_load_balancing.health import CustomHealthCheck
from tests.unit.pingora_load_balancing.health.rig import refused

_A = "10.0.0.1:80"


async def test_it_is_called_with_the_backend() -> None:
    """Returning means well."""
    seen: list[Backend] = []

    async def function(backend: Backend) -> None:
        seen.append(backend)

    await CustomHealthCheck(function).check(Backend(_A))

    assert seen == [Backend(_A)]


@pytest.mark.parametrize("error", [OSError("no"), TimeoutError("mine"), Error(Custom("No"))])
async def test_what_it_raises(error: Exception) -> None:
    """An error of the framework stays what it is, all else becomes the cause of one."""

    async def function(backend: Backend) -> None:
        raise error

    caught = await refused(CustomHealthCheck(function), _A)

    if isinstance(error, Error):
        assert caught is error
    else:
        assert caught.etype is ErrorType.UNKNOWN_ERROR
        assert caught.esource is ErrorSource.UPSTREAM
        assert caught.cause is error


async def test_it_has_a_deadline() -> None:
    """Then it is cancelled, and the backend has failed."""

    async def function(backend: Backend) -> None:
        await asyncio.Event().wait()

    caught = await refused(CustomHealthCheck(function, timeout=0.01), _A)

    assert caught.etype is ErrorType.READ_TIMEDOUT
    assert "within 0.01 s" in str(caught)


def test_a_deadline_that_makes_no_sense() -> None:
    """It is refused at once."""

    async def function(backend: Backend) -> None:
        pass

    with pytest.raises(ValueError, match="timeout"):
        CustomHealthCheck(function, timeout=0)
