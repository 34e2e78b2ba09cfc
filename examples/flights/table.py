"""Delays by carrier and by hour. Whole numbers only, so that equal means equal in any order of adding."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass, field

from .record import Record


@dataclass(slots=True)
class Delays:
    flights: int = 0
    departure_minutes: int = 0  # sum of the departure delays
    arrived: int = 0  # flights with a known arrival delay
    arrival_minutes: int = 0
    late: int = 0  # departed more than 15 minutes late
    seats: int = 0  # of the planes known by tail number
    in_rain: int = 0  # flights in an hour with rain at the origin

    def add(self, record: Record) -> None:
        self.flights += 1
        self.departure_minutes += record["dep_delay"]
        self.late += record["dep_delay"] > 15
        if record["arr_delay"] is not None:
            self.arrived += 1
            self.arrival_minutes += record["arr_delay"]
        self.seats += record["seats"] or 0
        self.in_rain += (record["rain"] or 0) > 0


@dataclass(slots=True)
class Tables:
    by_carrier: dict[str, Delays] = field(default_factory=dict)  # key: name of the airline
    by_hour: dict[str, Delays] = field(default_factory=dict)  # key: "05" … "23"

    @property
    def flights(self) -> int:
        return sum(delays.flights for delays in self.by_carrier.values())

    def add(self, record: Record) -> None:
        self.by_carrier.setdefault(record["airline"], Delays()).add(record)
        self.by_hour.setdefault(f"{record['hour']:02}", Delays()).add(record)

    def to_json(self) -> bytes:
        return json.dumps(
            [
                {key: astuple(delays) for key, delays in table.items()}
                for table in (self.by_carrier, self.by_hour)
            ]
        ).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Tables:
        return cls(
            *({key: Delays(*values) for key, values in table.items()} for table in json.loads(text))
        )

    def differences(self, truth: Tables) -> list[str]:
        """One sentence for each line that is not what it should be; empty when all are equal."""
        return [
            f"{key}: found {found.get(key)}, expected {expected.get(key)}"
            for found, expected in (
                (self.by_carrier, truth.by_carrier),
                (self.by_hour, truth.by_hour),
            )
            for key in sorted(found.keys() | expected.keys())
            if found.get(key) != expected.get(key)
        ]

    def text(self, truth: Tables) -> str:
        """Both tables for a terminal; the last column compares each line with the truth."""
        return "\n".join(
            [
                *_rendered("carrier", self.by_carrier, truth.by_carrier),
                "",
                *_rendered("hour", self.by_hour, truth.by_hour),
            ]
        )


def _rendered(title: str, found: dict[str, Delays], truth: dict[str, Delays]) -> list[str]:
    header = f"{title:<28}{'flights':>9}{'mean departure':>16}{'mean arrival':>14}{'late':>8}"
    lines = [f"{header}{'in rain':>9}  single process"]
    for key in sorted(found.keys() | truth.keys()):
        delays = found.get(key, Delays())
        lines.append(
            f"{key:<28}{delays.flights:>9}"
            f"{delays.departure_minutes / max(1, delays.flights):>12.1f} min"
            f"{delays.arrival_minutes / max(1, delays.arrived):>10.1f} min"
            f"{delays.late / max(1, delays.flights):>8.1%}"
            f"{delays.in_rain / max(1, delays.flights):>9.1%}"
            f"  {'same' if found.get(key) == truth.get(key) else 'DIFFERENT'}"
        )
    return lines
