"""ServerConf: defaults, loading, messages for what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated

import msgspec
import pytest

from pingora_core.conf import CONFIG_ERROR, Opt, ServerConf
from pingora_error import Error

if TYPE_CHECKING:
    from pathlib import Path


def refusal(text: str) -> str:
    """Load a text that must be refused, and return the message."""
    with pytest.raises(Error) as caught:
        ServerConf.from_yaml(text, source="conf.yaml")
    assert caught.value.etype == CONFIG_ERROR
    assert "\n" not in caught.value.context
    return caught.value.context


def test_defaults_are_those_of_pingora() -> None:
    """An empty file gives the defaults of Pingora's table."""
    conf = ServerConf.from_yaml("")

    assert conf == ServerConf()
    assert (conf.version, conf.daemon, conf.error_log) == (0, False, None)
    assert (conf.pid_file, conf.upgrade_sock) == ("/tmp/pingora.pid", "/tmp/pingora_upgrade.sock")
    assert (conf.user, conf.group, conf.working_directory) == (None, None, None)
    assert (conf.threads, conf.listener_tasks_per_fd, conf.work_stealing) == (1, 1, True)
    assert (conf.ca_file, conf.s2n_config_cache_size) == (None, None)
    assert (conf.grace_period_seconds, conf.graceful_shutdown_timeout_seconds) == (None, None)
    assert (conf.grace_period, conf.graceful_shutdown_timeout) == (300.0, 5.0)
    assert (conf.client_bind_to_ipv4, conf.client_bind_to_ipv6) == ((), ())
    assert conf.upstream_keepalive_pool_size == 128
    assert conf.upstream_connect_offload_threadpools is None
    assert conf.upstream_connect_offload_thread_per_pool is None
    assert (conf.upstream_debug_ssl_keylog, conf.max_retries) == (False, 16)
    assert conf.upgrade_sock_connect_accept_max_retries is None
    assert (conf.max_blocking_threads, conf.blocking_threads_ttl_seconds) == (None, None)
    assert conf.daemon_wait_for_ready is False
    assert (conf.daemon_ready_timeout_seconds, conf.daemon_notify_timeout_seconds) == (600, 60)
    assert conf.http1_parser == "httptools"
    assert conf.http2_engine == "h2"
    assert conf.fips is False


def test_defaults_of_keys_that_pingora_does_not_have() -> None:
    """The others have defaults under which a server behaves as an operator expects."""
    conf = ServerConf()

    assert (conf.umask, conf.log_level, conf.worker_cpu_affinity) == (None, None, None)
    assert (conf.workers, conf.worker_count, conf.is_supervised) == (1, 1, False)
    assert conf.worker_heartbeat_timeout_seconds == 30
    assert (conf.worker_max_requests, conf.worker_max_requests_jitter) == (None, 0)
    assert conf.worker_max_memory is None
    assert (conf.worker_restart_limit, conf.worker_restart_window_seconds) == (10, 60)
    assert (conf.lame_duck_seconds, conf.keepalive_min_seconds) == (0, 0.1)
    assert (conf.stream_drain_seconds, conf.stream_drain) == (None, 300)
    assert (conf.upgrade_ready_timeout_seconds, conf.upgrade_retries) == (60, 5)


def test_every_key_is_read() -> None:
    """Each key of a full file arrives in the attribute of its name."""
    text = """
version: 1
error_log: /var/log/pingora.err
pid_file: /run/p.pid
upgrade_sock: /run/p.sock
user: nobody
group: webusers
working_directory: /srv
umask: 0027
log_level: debug
workers: 4
worker_cpu_affinity: [[0, 1], [2]]
worker_heartbeat_timeout_seconds: 5
worker_max_requests: 1000
worker_max_requests_jitter: 100
worker_max_memory: 5000000000
worker_restart_limit: 3
worker_restart_window_seconds: 10
lame_duck_seconds: 5
stream_drain_seconds: 0.5
keepalive_min_seconds: 0
upgrade_ready_timeout_seconds: 30
http1_parser: h11
http2_engine: jh2
listener_tasks_per_fd: 2
work_stealing: no
fips: true
ca_file: /etc/ca.pem
s2n_config_cache_size: 0
grace_period_seconds: 1
graceful_shutdown_timeout_seconds: 2.5
client_bind_to_ipv4: [127.0.0.1, 127.0.0.2]
client_bind_to_ipv6: ["::1"]
upstream_keepalive_pool_size: 4
upstream_connect_offload_threadpools: 2
upstream_connect_offload_thread_per_pool: 3
upstream_debug_ssl_keylog: true
max_retries: 1
upgrade_sock_connect_accept_max_retries: 7
max_blocking_threads: 8
blocking_threads_ttl_seconds: 9
daemon: true
daemon_wait_for_ready: true
daemon_ready_timeout_seconds: 10
daemon_notify_timeout_seconds: 11
"""
    conf = ServerConf.from_yaml(text)

    values = msgspec.to_builtins(conf)
    default = msgspec.to_builtins(ServerConf())
    own = {each.name for each in fields(ServerConf)} - {"extra", "source", "origins"}
    assert {key for key in own if values[key] == default[key]} == set()
    assert conf.client_bind_to_ipv4 == ("127.0.0.1", "127.0.0.2")
    assert (conf.grace_period, conf.graceful_shutdown_timeout) == (1.0, 2.5)
    assert (conf.stream_drain, conf.upgrade_retries) == (0.5, 7)
    assert (conf.umask, conf.worker_max_memory) == (0o027, 5_000_000_000)
    assert conf.worker_cpu_affinity == ((0, 1), (2,))


def test_streams_do_not_outlive_the_grace_period() -> None:
    """Their deadline is cut to that of everything else."""
    assert ServerConf(stream_drain_seconds=10, grace_period_seconds=2).stream_drain == 2


def test_threads_is_another_name_for_workers() -> None:
    """Pingora's ``threads`` sets ``workers``; both with one value are fine."""
    assert ServerConf.from_yaml("threads: 3").workers == 3
    assert ServerConf.from_yaml("threads: 3\nworkers: 3").threads == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads: 0", "threads: got 0, allowed: a whole number from 1 to 1024, or auto"),
        ("workers: 1025", "workers: got 1025, allowed: a whole number from 1 to 1024, or auto"),
        ("workers: many", "workers: got 'many', allowed: a whole number from 1 to 1024, or auto"),
        ("workers: true", "workers: got true, allowed: a whole number from 1 to 1024, or auto"),
        ("workers: AUTO", "workers: got 'AUTO', allowed: a whole number from 1 to 1024, or auto"),
        ("worker_cpu_affinity: 1", "got 1, allowed: auto, or a list with a list of CPU numbers"),
        ("worker_cpu_affinity: []", "got [], allowed: auto, or a list with a list of CPU numbers"),
        ("worker_cpu_affinity: [0]", "worker_cpu_affinity[0]: got 0, allowed: auto, or a list"),
        ("worker_cpu_affinity: [[0], []]", "worker_cpu_affinity[1]: got [], allowed: auto, or"),
        ("worker_cpu_affinity: [[0, -1]]", "worker_cpu_affinity[0][1]: got -1, allowed: auto"),
        ("log_level: INFO", "got 'INFO', allowed: debug, info, warning, error or critical"),
        ("umask: 27", "umask: got '27', allowed: a mode in octal with a leading zero, from 0 to"),
        ("umask: 0o1000", "umask: got '0o1000', allowed: a mode in octal with a leading zero"),
        ("umask: 0x1f", "umask: got '0x1f', allowed: a mode in octal"),
        ("umask: u=rwx", "umask: got 'u=rwx', allowed: a mode in octal"),
        ("umask: 0.5", "umask: got '0.5', allowed: a mode in octal"),
        ("umask: [0]", "umask: got [0], allowed: a mode in octal"),
        ("worker_max_memory: 0", "got 0, allowed: bytes, a whole number of at least 1"),
        ("worker_heartbeat_timeout_seconds: 0", "got 0, allowed: seconds, a number above 0"),
        ("daemon: 1", "daemon: got 1, allowed: true or false"),
        ("pid_file: null", "pid_file: got null, allowed: text, not empty"),
        ("user: ''", "user: got '', allowed: text, not empty"),
        ("http1_parser: fast", "http1_parser: got 'fast', allowed: httptools or h11"),
        ("grace_period_seconds: -1", "got -1, allowed: seconds, a number from 0 to 31536000"),
        ("grace_period_seconds: .nan", "got nan, allowed: seconds, a number from 0 to 31536000"),
        ("grace_period_seconds: .inf", "got inf, allowed: seconds, a number from 0 to 31536000"),
        ("max_blocking_threads: 0", "got 0, allowed: a whole number of at least 1"),
        ("daemon_ready_timeout_seconds: 0", "got 0, allowed: seconds, a number above 0"),
        ("client_bind_to_ipv4: 127.0.0.1", "got '127.0.0.1', allowed: a list of IPv4 addresses"),
        ("client_bind_to_ipv4: [5]", "client_bind_to_ipv4[0]: got 5, allowed: a list of IPv4"),
        ("client_bind_to_ipv4: ['::1']", "client_bind_to_ipv4[0]: got '::1', allowed: an IPv4"),
        ("client_bind_to_ipv6: ['::1', x]", "client_bind_to_ipv6[1]: got 'x', allowed: an IPv6"),
        ("threads: 2\nworkers: 3", "threads: and 'workers' are the same setting with two values"),
        ("[1, 2]", "got [1, 2], allowed: a mapping of keys to values"),
        ("1: 2", "got 1, allowed: text as a key"),
        ("workers: 1\nworkers: 2", "line 2, column 1: key 'workers' is given twice"),
        ("a: {b: 1, c: 2, b: 3}", "line 1, column 17: key 'b' is given twice"),
        ("workers: [1", "is not valid YAML: line 1, column"),
        ("? [1, 2]\n: 3", "is not valid YAML: line 1, column 3: found unhashable key"),
        ("umask: {a: 1}", "umask: got {'a': 1}, allowed: a mode in octal"),
        ("a: \x00", "is not valid YAML: "),
        ("a: !!python/object:os.system {}", "is not valid YAML: line 1, column 4"),
        ("error_log: " + "x" * 5000 + "\0", "is not valid YAML"),
    ],
)
def test_a_wrong_value_is_refused_with_one_line(text: str, message: str) -> None:
    """The message names the file, the key, the value and what is allowed."""
    said = refusal(text)

    assert said.startswith("conf.yaml: ")
    assert message in said
    assert len(said) < 300


def test_long_values_are_shown_shortened() -> None:
    """A message stays one readable line whatever the value is."""
    said = refusal("workers: " + "x" * 5000)

    assert len(said) < 200


def test_deep_nesting_is_refused_not_fatal() -> None:
    """YAML nested beyond what the parser bears is a configuration error like any other."""
    assert "is not valid YAML" in refusal("a: " + "[" * 1000)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.yaml", None, "cannot be read: No such file or directory"),
        ("latin1.yaml", b"user: \xe9", "cannot be read: 'utf-8' codec"),
        ("nul\0.yaml", None, "cannot be read: embedded null byte"),
    ],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    """A file that cannot be opened or decoded is refused with its path and the reason."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(Error) as caught:
        ServerConf.load_from_yaml(str(path))

    assert caught.value.etype == CONFIG_ERROR
    assert name in caught.value.context
    assert message in caught.value.context


def test_a_file_is_loaded_and_named(tmp_path: Path) -> None:
    """A file's configuration remembers where it came from; a byte order mark does no harm."""
    path = tmp_path / "conf.yaml"
    path.write_bytes(b"\xef\xbb\xbfmax_retries: 3\n")

    conf = ServerConf.load_from_yaml(str(path))

    assert conf.max_retries == 3
    assert conf.source == str(path)


def test_a_configuration_made_in_code_is_validated_on_request() -> None:
    """validate() finds in an object what loading finds in a file."""
    conf = ServerConf(workers=0)

    with pytest.raises(Error) as caught:
        conf.validate()

    assert caught.value.context == (
        "ServerConf: workers: got 0, allowed: a whole number from 1 to 1024, or auto"
    )


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    """-d sets daemon; without -c the defaults are used; with it the file is."""
    path = tmp_path / "conf.yaml"
    path.write_text("max_retries: 3")

    assert ServerConf.from_opt(Opt()) == ServerConf()
    assert ServerConf.from_opt(Opt(daemon=True)).daemon is True
    assert ServerConf.from_opt(Opt(conf=str(path))).max_retries == 3
    assert ServerConf(daemon=True).merge_with_opt(Opt()).daemon is True


# ------------------------------------------------------------------- the application's own keys


@dataclass
class Limits:
    """A section as an application declares it."""

    rate: Annotated[int, msgspec.Meta(ge=1, description="requests a second, at least 1")]
    names: tuple[str, ...] = ()


def test_unknown_keys_are_kept_for_the_application() -> None:
    """A section of the application's own is read typed from the same file."""
    conf = ServerConf.from_yaml("limits: {rate: 5, names: [a]}\nother: 1\nextra: 2\nsource: 3")

    assert conf.section("limits", Limits) == Limits(5, ("a",))
    assert conf.section("other", int) == 1
    assert conf.extra.keys() == {"limits", "other", "extra", "source"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {rate: 0}", "c.yaml: limits.rate: got 0, allowed: requests a second, at least 1"),
        ("limits: {rate: 1, names: [x, 2]}", "c.yaml: limits.names[1]: got 2, allowed: str"),
        ("limits: {}", "c.yaml: limits.rate: is missing, allowed: requests a second"),
        ("limits: 5", "c.yaml: limits: got 5, allowed: object"),
        ("", "c.yaml: limits.rate: is missing, allowed: requests a second"),
        ("limits: {rate: 1, nams: [x]}", "c.yaml: limits.nams: is not a key; is 'names' meant?"),
        ("limits: {rate: 1, x: 2}", "c.yaml: limits.x: is not a key; allowed: rate, names"),
    ],
)
def test_a_wrong_section_is_refused_as_precisely(text: str, message: str) -> None:
    """The application's keys get the same kind of message as the server's."""
    conf = ServerConf.from_yaml(text, source="c.yaml")

    with pytest.raises(Error) as caught:
        conf.section("limits", Limits)

    assert caught.value.context.startswith(message)


@pytest.mark.parametrize(
    "text",
    ["{all: {a: {rat: 1, rate: 1}}}", "{some: [{rat: 1, rate: 1}]}", "{one: {rat: 1, rate: 1}}"],
)
def test_a_key_that_is_not_known_is_refused_at_any_depth(text: str) -> None:
    """A misspelt setting would silently have its default."""

    @dataclass
    class Outer:
        all: dict[str, Limits] = field(default_factory=dict)
        some: tuple[Limits, ...] = ()
        one: Limits | None = None

    conf = ServerConf.from_yaml(f"outer: {text}", source="c.yaml")

    with pytest.raises(Error, match=r"rat: is not a key; is 'rate' meant\?"):
        conf.section("outer", Outer)


def test_a_section_of_any_type_is_checked() -> None:
    """A section need not be a class of the application's own."""
    conf = ServerConf.from_yaml("rates: {a: 1, b: x}", source="c.yaml")

    with pytest.raises(Error) as caught:
        conf.section("rates", dict[str, int])

    assert caught.value.context == "c.yaml: rates[...]: got {'a': 1, 'b': 'x'}, allowed: int"


def test_merge_keys_may_be_overridden() -> None:
    """YAML's way to share settings is no key given twice."""
    text = """
a: {b: &deep {<<: &base {x: 1, y: 1}, x: 2}}
c: {<<: *deep, x: 3}
"""
    conf = ServerConf.from_yaml(text)

    assert conf.section("c", dict[str, int]) == {"x": 3, "y": 1}
    assert conf.section("a", dict[str, dict[str, int]]) == {"b": {"x": 2, "y": 1}}


@pytest.mark.parametrize(
    ("written", "mode"),
    [("0027", 0o027), ("0o027", 0o027), ("'0027'", 0o027), ("0", 0), ("00", 0), ("0777", 0o777)],
)
def test_a_umask_is_octal(written: str, mode: int) -> None:
    """In each of the ways in which operators write modes, quoted or not."""
    assert ServerConf.from_yaml(f"umask: {written}").umask == mode


def test_workers_for_each_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` stands for the processors that the server may use, also under Pingora's name."""
    monkeypatch.setattr("pingora_core.conf._keys.usable_cpus", lambda: 3)
    conf = ServerConf.from_yaml("threads: auto")

    assert (conf.workers, conf.worker_count, conf.threads) == ("auto", 3, 3)
    assert conf.is_supervised


@pytest.mark.parametrize("text", ["workers: 2", "worker_max_requests: 5", "worker_max_memory: 5"])
def test_several_workers_and_limits_need_a_supervisor(text: str) -> None:
    """One worker can be replaced only if somebody outlives it."""
    assert ServerConf.from_yaml(text).is_supervised


def test_workers_take_turns_with_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is used in turn; ``auto`` deals out what there is; without any the kernel chooses."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {4, 2})
    listed = ServerConf(worker_cpu_affinity=((0,), (1, 2)))
    dealt = ServerConf(worker_cpu_affinity="auto")

    assert [listed.worker_cpus(index) for index in range(3)] == [{0}, {1, 2}, {0}]
    assert [dealt.worker_cpus(index) for index in range(3)] == [{2}, {4}, {2}]
    assert ServerConf().worker_cpus(0) == set()


@pytest.mark.parametrize("key", ["workers", "threads"])
def test_the_servers_own_keys_are_no_section(key: str) -> None:
    """Asking for a server key as a section is a mistake of the programmer."""
    with pytest.raises(ValueError, match="key of the server itself"):
        ServerConf().section(key, int)


def test_a_misspelt_key_is_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    """A key that looks like one of the server's is accepted with a warning."""
    conf = ServerConf.from_yaml("max_retrys: 3\nunrelated: 1", source="c.yaml")

    assert conf.max_retries == 16
    assert [record.getMessage() for record in caplog.records] == [
        "c.yaml: key 'max_retrys' is not one of the server's; is 'max_retries' meant?"
    ]


def test_a_key_without_a_meaning_gets_a_note(caplog: pytest.LogCaptureFixture) -> None:
    """One for each such key that is set to something, none for what is as it always is."""
    text = "version: 1\nwork_stealing: false\nlistener_tasks_per_fd: 1\ns2n_config_cache_size: 3"
    ServerConf.from_yaml(text, source="c.yaml")

    note = "has no meaning here; the key is accepted for the sake of Pingora's files"
    assert [record.getMessage() for record in caplog.records] == [
        f"c.yaml: s2n_config_cache_size: {note}",
        f"c.yaml: work_stealing: {note}",
    ]


def test_a_copy_is_read_quietly(caplog: pytest.LogCaptureFixture) -> None:
    """What was said when the original was loaded is not said again."""
    conf = ServerConf.from_yaml("work_stealing: false\nmax_retrys: 3", quiet=True)

    assert not conf.work_stealing
    assert caplog.records == []


def test_a_problem_is_worded_as_at_loading() -> None:
    """Whoever checks more than loading does says it in the same way."""
    conf = ServerConf(worker_cpu_affinity=((0, 9),), source="c.yaml")

    assert conf.problem("workers", "2") == "c.yaml: workers: got 1, allowed: 2"
    assert conf.problem("worker_cpu_affinity", "0-3", 0, 1) == (
        "c.yaml: worker_cpu_affinity[0][1]: got 9, allowed: 0-3"
    )
    assert conf.place("workers") == "c.yaml: workers"
