"""How a write that does not come to its end is told: to the caller, and to those who wait for it.

Part of ``pingora_cache.fill``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pingora_cache.lock import LockStatus
from pingora_error import Error, ErrorType

if TYPE_CHECKING:
    from pingora_cache.lock import CacheKeyLock
    from pingora_cache.reason import NoCacheReason

__all__ = ["status_of", "storage_error"]

_STATUSES: Final = {
    "InternalError": LockStatus.TRANSIENT_ERROR,
    "StorageError": LockStatus.TRANSIENT_ERROR,
    "Deferred": LockStatus.TRANSIENT_ERROR,
    "UpstreamError": LockStatus.TRANSIENT_ERROR,
    "DeclinedToUpstream": LockStatus.TRANSIENT_ERROR,
    "OriginNotCache": LockStatus.GIVE_UP,
    "ResponseTooLarge": LockStatus.GIVE_UP,
    "PredictedResponseTooLarge": LockStatus.GIVE_UP,
}


def storage_error(doing: str, cause: Exception) -> Error:
    """Make the error of a store that failed.

    Args:
        doing: What was asked of it.
        cause: What it raised.

    Returns:
        The error to raise: the store's own, if it is one.
    """
    if isinstance(cause, Error):
        return cause
    return Error.internal(ErrorType.INTERNAL_ERROR, f"the cache store: {doing}", cause=cause)


def status_of(reason: NoCacheReason, lock: CacheKeyLock | None) -> LockStatus:
    """Decide what those who wait are told when the writer stops.

    Args:
        reason: Why it stops.
        lock: The cache lock; decides about reasons of the application's.

    Returns:
        The status to release the permit with.

    Raises:
        ValueError: If the reason is not one that a writer can have.

    Source: HttpCache::release_write_lock in pingora-cache/src/lib.rs.
    """
    if reason.is_custom:
        return LockStatus.GIVE_UP if lock is None else lock.custom_lock_status(reason)
    status = _STATUSES.get(reason.name)
    if status is None:
        msg = f"a request that fetches does not stop because of {reason}"
        raise ValueError(msg)
    return status
