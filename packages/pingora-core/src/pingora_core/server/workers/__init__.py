"""Several processes that serve: a supervisor, its workers, and the line between them."""

from pingora_core.server.workers.supervisor import supervise
from pingora_core.server.workers.worker import WorkerLink, become_worker

__all__ = ["WorkerLink", "become_worker", "supervise"]
