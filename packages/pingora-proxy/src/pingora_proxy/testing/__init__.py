"""Testing what you write with this framework, without mocks.

- One callback, without sockets: :func:`make_session`.
- A whole service on real sockets in the test's own loop: :class:`RunningService`,
  :class:`ScriptedOrigin` and :class:`Client`.
- What runs when: :func:`record_phases`; time: :class:`FakeClock`.

``pytest_plugins = ["pingora_proxy.testing.pytest_plugin"]`` brings fixtures.
"""

from pingora_proxy.testing.client import Client, ClientResponse
from pingora_proxy.testing.clock import FakeClock
from pingora_proxy.testing.origin import (
    OriginRequest,
    ScriptedOrigin,
    Step,
    cut_off,
    hang,
    reply,
    reset,
    stream,
)
from pingora_proxy.testing.phases import record_phases
from pingora_proxy.testing.proxy import RunningProxy
from pingora_proxy.testing.service import RunningService
from pingora_proxy.testing.session import FakeSession, make_session

__all__ = [
    "Client",
    "ClientResponse",
    "FakeClock",
    "FakeSession",
    "OriginRequest",
    "RunningProxy",
    "RunningService",
    "ScriptedOrigin",
    "Step",
    "cut_off",
    "hang",
    "make_session",
    "record_phases",
    "reply",
    "reset",
    "stream",
]
