"""Writing a new project: ``python -m pingora_proxy new NAME``."""

from pingora_proxy.scaffold.project import create_project

__all__ = ["create_project"]
