"""A program that needs pingora-load-balancing: it chooses servers for a protocol of its own."""

from __future__ import annotations

from dataclasses import dataclass

from pingora_load_balancing import Backend, LoadBalancer


@dataclass(frozen=True)
class Place:
    """Where a server stands."""

    zone: str


def main() -> None:
    """Choose in turn."""
    north = Backend("10.0.0.1:9000", metadata=Place("north"))
    south = Backend("10.0.0.2:9000", metadata=Place("south"))
    balancer = LoadBalancer([north, south])

    chosen: list[Backend | None] = [balancer.select(b"", 8) for _ in range(4)]

    zones = []
    for backend in chosen:
        place: Place | None = backend.metadata_as(Place) if backend else None
        zones.append(place.zone if place else "nowhere")
    assert sorted(zones) == ["north", "north", "south", "south"]
    assert zones[0] != zones[1]


if __name__ == "__main__":
    main()
