"""A program that needs pingora-limits: a gate that limits rate and concurrency by client."""

from __future__ import annotations

from dataclasses import dataclass, field

from pingora_limits import (
    Decision,
    Guard,
    Inflight,
    Key,
    Limiter,
    Rate,
    RateComponents,
    SlidingWindow,
    TokenBucket,
    proportional_rate_estimate,
)
from pingora_limits.shared import SharedInflight, SharedRate, SharedTokenBucket


@dataclass
class Gate:
    """Lets a client in if all limiters and the number of its requests allow it."""

    limiters: list[Limiter]
    inflight: Inflight | SharedInflight = field(default_factory=Inflight)
    most: int = 2

    def enter(self, key: Key) -> Guard | Decision:
        """Get a guard, or the reason why not."""
        for limiter in self.limiters:
            decision = limiter.acquire(key)
            if not decision.is_allowed:
                return decision
        guard, count = self.inflight.incr(key)
        if count > self.most:
            guard.release()
            return Decision(False, self.most, 0, 1.0, 1.0)
        return guard


def half(components: RateComponents) -> int:
    """Estimate as one likes; the type of the result is one's own."""
    return (components.prev_samples + components.curr_samples) // 2


def main() -> None:
    """Let somebody in."""
    shared = SharedTokenBucket(rate=1.0, burst=3)
    gate = Gate([SlidingWindow(10, 60.0), TokenBucket(5.0, 5), shared], SharedInflight())
    with_guard = [gate.enter("10.0.0.1") for _ in range(3)]
    assert [isinstance(each, Guard) for each in with_guard] == [True, True, False]
    rates: list[Rate | SharedRate] = [Rate(1.0), SharedRate(1.0, processes=8)]
    for rate in rates:
        seen: int = rate.observe(b"\x0a\x00\x00\x01", 4)
        estimate: int = rate.rate_with(b"\x0a\x00\x00\x01", half)
        per_second: float = rate.rate_with(7, proportional_rate_estimate)
        assert (seen, estimate, per_second) == (4, 2, 0.0)


if __name__ == "__main__":
    main()
