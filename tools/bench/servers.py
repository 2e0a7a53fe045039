"""The origins and the servers that are compared, each with its configuration.

All proxies do the same: keep connections to the origin, stream both bodies, set one request
field, write no access log. They are set up as one would for speed: nginx and HAProxy have 64 KiB
buffers, and nginx writes no body to disk. With its default buffers nginx takes about three times
the CPU for a response of 1 MiB. Over TLS all have the same certificate, ciphers and groups.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.process import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CACHES",
    "LARGE",
    "PEERS",
    "SMALL",
    "Front",
    "Peer",
    "Site",
    "grpc_origin",
    "nginx",
    "origin",
    "pingora",
]

Front: TypeAlias = Literal["plain", "tls", "grpc", "cache", "cache_disk", "observed"]
"""What clients speak: HTTP/1 in clear; HTTP/1 or HTTP/2 over TLS; the same before a gRPC origin;
HTTP/1 in clear, answered from a cache in memory or on disk. (nginx has its cache on disk always.)
Or HTTP/1 in clear with metrics and an access log."""

CACHES: frozenset[Front] = frozenset({"cache", "cache_disk"})
_PROXIED: frozenset[Front] = frozenset({"plain", "tls", "grpc"})

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
  server {{ listen unix:{directory}/inner.sock backlog=4096; return 200 "{small}"; }}
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
    listen 127.0.0.1:{port} backlog=4096{listen};
    {tls}
    location / {{
      {passing}
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
      proxy_buffers 16 64k;
      client_body_buffer_size 64k;
    }}
  }}
"""

_CACHE = """
  sendfile {sendfile};
  tcp_nopush {sendfile};
  proxy_cache_path {directory}/cache levels=1:2 keys_zone=cache:10m max_size=1g use_temp_path=off;
  upstream origin {{ server 127.0.0.1:{origin}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_cache cache;
      proxy_cache_valid 200 1h;
      proxy_cache_lock on;
      proxy_cache_lock_timeout 60s;
      proxy_cache_lock_age 60s;
    }}
  }}
"""

_TO_HTTP = """\
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For 127.0.0.1;"""
_TO_GRPC = """\
      grpc_pass grpc://origin;
      grpc_set_header X-Forwarded-For 127.0.0.1;"""

_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305"
)
_SUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_GROUPS = "X25519:P-256:P-384"

_NGINX_TLS = """\
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    ssl_ciphers {ciphers};
    ssl_conf_command Ciphersuites {suites};
    ssl_ecdh_curve {groups};
    ssl_session_cache shared:tls:10m;
    http2_max_concurrent_streams 128;"""

_HAPROXY = """\
global
  no strict-limits
  maxconn {connections}
  tune.bufsize 65536
  nbthread 1
  ssl-default-bind-ciphers {ciphers}
  ssl-default-bind-ciphersuites {suites}
  ssl-default-bind-curves {groups}
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 60s
  timeout http-keep-alive 300s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port} backlog 4096{bind}
  http-request set-header X-Forwarded-For 127.0.0.1
  default_backend origin
backend origin
  server origin 127.0.0.1:{origin}{proto}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server lives.

    Attributes:
        directory: Its own folder; it exists.
        port: The port of 127.0.0.1 it listens on.
        origin: The port of the origin; 0 for the origin itself.
        front: What clients speak.
        certificate: File with the certificate and its issuers; of no meaning in clear.
        key: File with its key.
    """

    directory: Path
    port: int
    origin: int = 0
    front: Front = "plain"
    certificate: Path = Path()
    key: Path = Path()


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that is measured.

    Attributes:
        command: Configures it and gives its command line.
        fronts: What it can be asked to speak.
    """

    command: Callable[[Site], list[str]]
    fronts: frozenset[Front] = _PROXIED


def origin(site: Site) -> list[str]:
    """Configure nginx as the origin.

    Args:
        site: Where it lives.

    Returns:
        Its command line.
    """
    (site.directory / "large").write_bytes(b"x" * LARGE)
    values = {"directory": site.directory, "small": SMALL.decode(), "port": site.port}
    return nginx(site, _ORIGIN.format_map(values))


def grpc_origin(site: Site) -> list[str]:
    """Prepare a gRPC server as the origin.

    Args:
        site: Where it lives.

    Returns:
        Its command line.
    """
    return [sys.executable, str(_HERE / "grpc_origin.py"), str(site.port)]


def _nginx_proxy(site: Site, sendfile: str = "off") -> list[str]:
    if site.front in CACHES:
        places = {"directory": site.directory, "port": site.port, "origin": site.origin}
        return nginx(site, _CACHE.format_map(places | {"sendfile": sendfile}))
    tls = ""
    if site.front != "plain":
        values = {"ciphers": _CIPHERS, "suites": _SUITES, "groups": _GROUPS}
        tls = _NGINX_TLS.format(certificate=site.certificate, key=site.key, **values)
    config = _PROXY.format(
        port=site.port,
        origin=site.origin,
        listen=" ssl http2" if tls else "",
        tls=tls,
        passing=_TO_GRPC if site.front == "grpc" else _TO_HTTP,
    )
    return nginx(site, config)


def _haproxy(site: Site) -> list[str]:
    bind = ""
    if site.front != "plain":
        pair = site.directory / "pair.pem"
        pair.write_bytes(site.certificate.read_bytes() + site.key.read_bytes())
        bind = f" ssl crt {pair} alpn h2,http/1.1"
    config = site.directory / "haproxy.cfg"
    config.write_text(
        _HAPROXY.format(
            port=site.port,
            origin=site.origin,
            connections=_MOST_CONNECTIONS,
            bind=bind,
            proto=" proto h2" if site.front == "grpc" else "",
            ciphers=_CIPHERS,
            suites=_SUITES,
            groups=_GROUPS,
        )
    )
    return [_program("haproxy"), "-db", "-f", str(config)]


def _aiohttp(site: Site) -> list[str]:
    return [_peers_python(), str(_HERE / "aiohttp_proxy.py"), str(site.port), str(site.origin)]


def _hypercorn(site: Site) -> list[str]:
    options = ["--worker-class", "uvloop", "--keep-alive", "300", "--backlog", "4096"]
    options += ["--certfile", str(site.certificate), "--keyfile", str(site.key)]
    where = ["--bind", f"127.0.0.1:{site.port}", "bench.hypercorn_app:app"]
    return [_peers_python(), "-m", "hypercorn", *options, *where]


def pingora(site: Site, engine: str = "h2", workers: int = 1) -> list[str]:
    """Prepare our proxy.

    Args:
        site: Where it lives.
        engine: The HTTP/2 library.
        workers: Worker processes.

    Returns:
        Its command line.
    """
    options = {
        "port": site.port,
        "origin": site.origin,
        "front": site.front,
        "certificate": str(site.certificate),
        "key": str(site.key),
        "engine": engine,
        "workers": workers,
        "disk": str(site.directory / "objects"),
        "profile": os.environ.get("BENCH_PROFILE", ""),
    }
    return [sys.executable, str(_HERE / "pingora_proxy_app.py"), json.dumps(options)]


def _peers_python() -> str:
    python = os.environ.get("BENCH_PEERS_PYTHON", "")
    if not python:
        raise BenchError("its environment is not there; run ./tools/dev bench")
    return python


def nginx(site: Site, http: str) -> list[str]:
    """Configure nginx with one worker.

    Args:
        site: Where it lives.
        http: What stands in its ``http`` block.

    Returns:
        Its command line.
    """
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


# The measured one first; nginx is what it is compared with. hypercorn answers by itself.
PEERS: dict[str, Peer] = {
    "pingora": Peer(pingora, _PROXIED | CACHES),
    "nginx": Peer(_nginx_proxy, _PROXIED | CACHES),
    "nginx_sendfile": Peer(partial(_nginx_proxy, sendfile="on"), CACHES),
    "haproxy": Peer(_haproxy),
    "jh2": Peer(partial(pingora, engine="jh2"), frozenset({"tls", "grpc"})),
    "aiohttp": Peer(_aiohttp, frozenset({"plain"})),
    "hypercorn": Peer(_hypercorn, frozenset({"tls"})),
}
