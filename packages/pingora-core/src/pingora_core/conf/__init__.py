"""What a server can be told from outside: configuration file, environment and command line."""

from pingora_core.conf._changes import ConfChanges, find_changes
from pingora_core.conf._load import CONFIG_ERROR
from pingora_core.conf._opt import Opt
from pingora_core.conf._server_conf import ServerConf

__all__ = ["CONFIG_ERROR", "ConfChanges", "Opt", "ServerConf", "find_changes"]
