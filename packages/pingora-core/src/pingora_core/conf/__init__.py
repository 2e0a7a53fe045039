"""What a server can be told from outside: its configuration file and its command line."""

from pingora_core.conf._load import CONFIG_ERROR
from pingora_core.conf._opt import Opt
from pingora_core.conf._server_conf import ServerConf

__all__ = ["CONFIG_ERROR", "Opt", "ServerConf"]
