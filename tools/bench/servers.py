"""The origin and the proxies that are compared, each with its configuration.

All proxies do the same: keep connections to the origin, stream both bodies, set one request
field, write no access log. They are set up as one would for speed: nginx and HAProxy have 64 KiB
buffers, and nginx writes no body to disk. With its default buffers nginx takes about three times
the CPU for a response of 1 MiB.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LARGE", "PEERS", "SMALL", "Site", "origin"]

SMALL = b"Hello from the origin: 44 bytes, no more. :)"
LARGE = 1024 * 1024
_MOST_CONNECTIONS = 12_000
_HERE = Path(__file__).resolve().parent

_NGINX = """\
daemon off;
worker_processes 1;
worker_rlimit_nofile 100000;
{user}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 30000; multi_accept on; }}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path {directory}/client_body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_max_body_size 0;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  {http}
}}
"""

# nginx reads an upload only where something needs its body: here an inner server, to which the
# outer one then does not pass it. So 200 means that the whole body has arrived.
_ORIGIN = """
  sendfile on;
  open_file_cache max=16;
  upstream inner {{ server unix:{directory}/inner.sock; keepalive 128; }}
  server {{ listen unix:{directory}/inner.sock; return 200 "{small}"; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /small {{ return 200 "{small}"; }}
    location = /large {{ alias {directory}/large; }}
    location = /upload {{
      client_body_buffer_size 1m;
      proxy_pass http://inner/;
      proxy_pass_request_body off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
    }}
  }}
"""

_PROXY = """
  upstream origin {{
    server 127.0.0.1:{origin};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For 127.0.0.1;
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_buffers 16 64k;
      client_body_buffer_size 64k;
    }}
  }}
"""

_HAPROXY = """\
global
  no strict-limits
  maxconn {connections}
  tune.bufsize 65536
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port} backlog 4096
  http-request set-header X-Forwarded-For 127.0.0.1
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server lives.

    Attributes:
        directory: Its own folder; it exists.
        port: The port of 127.0.0.1 it listens on.
        origin: The port of the origin; 0 for the origin itself.
    """

    directory: Path
    port: int
    origin: int = 0


def origin(site: Site) -> list[str]:
    """Configure nginx as the origin.

    Args:
        site: Where it lives.

    Returns:
        Its command line.
    """
    (site.directory / "large").write_bytes(b"x" * LARGE)
    values = {"directory": site.directory, "small": SMALL.decode(), "port": site.port}
    return _nginx(site, _ORIGIN.format_map(values))


def _nginx_proxy(site: Site) -> list[str]:
    return _nginx(site, _PROXY.format(port=site.port, origin=site.origin))


def _haproxy(site: Site) -> list[str]:
    config = site.directory / "haproxy.cfg"
    config.write_text(
        _HAPROXY.format(port=site.port, origin=site.origin, connections=_MOST_CONNECTIONS)
    )
    return [_program("haproxy"), "-db", "-f", str(config)]


def _aiohttp(site: Site) -> list[str]:
    python = os.environ.get("BENCH_AIOHTTP_PYTHON", "")
    if not python:
        raise BenchError("aiohttp is not installed")
    return [python, str(_HERE / "aiohttp_proxy.py"), str(site.port), str(site.origin)]


def _pingora(site: Site) -> list[str]:
    app = str(_HERE / "pingora_proxy_app.py")
    profile = os.environ.get("BENCH_PROFILE")
    command = [sys.executable, app, str(site.port), str(site.origin)]
    return [*command, profile] if profile else command


def _nginx(site: Site, http: str) -> list[str]:
    # Started by root it would give its worker another user, who cannot read these folders.
    user = "user root root;" if os.geteuid() == 0 else ""
    config = site.directory / "nginx.conf"
    config.write_text(_NGINX.format(user=user, directory=site.directory, http=http))
    return [_program("nginx"), "-e", "stderr", "-p", str(site.directory), "-c", str(config)]


def _program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if path is None:
        raise BenchError(f"{name} is not installed (./tools/dev deps)")
    return path


# The measured one first; nginx is what it is compared with.
PEERS: dict[str, Callable[[Site], list[str]]] = {
    "pingora": _pingora,
    "nginx": _nginx_proxy,
    "haproxy": _haproxy,
    "aiohttp": _aiohttp,
}
