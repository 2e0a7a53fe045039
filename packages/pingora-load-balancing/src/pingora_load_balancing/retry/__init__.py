"""Failover: when a request is sent again, where to, and how often at most."""

from pingora_load_balancing.retry.attempts import Attempts
from pingora_load_balancing.retry.budget import RetryBudget
from pingora_load_balancing.retry.failover import Failover
from pingora_load_balancing.retry.phases import FailoverPhases, HasAttempts
from pingora_load_balancing.retry.policy import IDEMPOTENT_METHODS, RetryOn, RetryPolicy
from pingora_load_balancing.retry.request import ProxiedRequest

__all__ = [
    "IDEMPOTENT_METHODS",
    "Attempts",
    "Failover",
    "FailoverPhases",
    "HasAttempts",
    "ProxiedRequest",
    "RetryBudget",
    "RetryOn",
    "RetryPolicy",
]
