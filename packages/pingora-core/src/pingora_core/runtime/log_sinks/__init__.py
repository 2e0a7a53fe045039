"""Where log lines of a hot path go: files, standard output, syslog; written by a thread."""

from pingora_core.runtime.log_sinks.file import FileSink, StdoutSink
from pingora_core.runtime.log_sinks.queue import LogQueue
from pingora_core.runtime.log_sinks.sink import LogSink, PartlyWrittenError
from pingora_core.runtime.log_sinks.syslog import Facility, Severity, SyslogSink

__all__ = [
    "Facility",
    "FileSink",
    "LogQueue",
    "LogSink",
    "PartlyWrittenError",
    "Severity",
    "StdoutSink",
    "SyslogSink",
]
