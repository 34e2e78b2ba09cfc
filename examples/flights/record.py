"""One flight on its way: the raw message, the checks, the enriched record. Pure: no queue, no process."""

from __future__ import annotations

import json
from typing import TypedDict

from .dataset import COLUMNS, Lookups

_POSITION = {name: index for index, name in enumerate(COLUMNS)}
_DEP_TIME, _DEP_DELAY, _ARR_DELAY = (_POSITION[c] for c in ("dep_time", "dep_delay", "arr_delay"))
_CARRIER, _TAILNUM, _ORIGIN = (_POSITION[c] for c in ("carrier", "tailnum", "origin"))
_DEST, _HOUR, _TIME_HOUR = (_POSITION[c] for c in ("dest", "hour", "time_hour"))
MISSING = ("", "NA")

_ENCODER = json.JSONEncoder(separators=(",", ":"))


class Unusable(Exception):
    """This flight belongs into the dead-letter queue; the text is the reason."""


class Record(TypedDict):
    """What a worker publishes to `clean`, as JSON."""

    row: int  # position in flights.csv: the identity of a flight
    carrier: str
    airline: str
    origin: str
    dest: str
    hour: int  # scheduled hour of departure, local time
    dep_delay: int  # minutes, negative = early
    arr_delay: int | None  # None: diverted, never arrived where it should
    plane: str | None
    seats: int | None
    temperature: str | None
    visibility: float | None
    rain: float | None


def raw_payload(row: int, line: str) -> bytes:
    return f"{row},{line}".encode()


def row_of(payload: bytes) -> int:
    """The row number of a raw message, e.g. of one found in the dead-letter queue."""
    return int(payload.split(b",", 1)[0])


def enriched(payload: bytes, lookups: Lookups) -> bytes:
    """Parse, validate and join one raw message.

    Raises:
        Unusable: the flight was cancelled, or its row breaks a rule.
    """
    number, *fields = payload.decode().split(",")
    if len(fields) != len(COLUMNS):
        raise Unusable(f"invalid: found {len(fields)} columns, expected {len(COLUMNS)}")
    carrier, origin, tail = fields[_CARRIER], fields[_ORIGIN], fields[_TAILNUM]
    if fields[_DEP_TIME] in MISSING:
        raise Unusable(f"cancelled: {carrier} from {origin} has no departure time")
    airline = lookups.airlines.get(carrier)
    if airline is None:
        raise Unusable(f"invalid: found carrier {carrier!r}, expected one of airlines.csv")
    try:
        hour, dep_delay = int(fields[_HOUR]), int(fields[_DEP_DELAY])
        arr_delay = None if fields[_ARR_DELAY] in MISSING else int(fields[_ARR_DELAY])
    except ValueError as error:
        raise Unusable(f"invalid: {error}") from None
    if not 0 <= hour < 24:
        raise Unusable(f"invalid: found hour {hour}, expected 0 to 23")
    plane = lookups.planes.get(tail)
    weather = lookups.weather.get((origin, fields[_TIME_HOUR]))
    record: Record = {
        "row": int(number),
        "carrier": carrier,
        "airline": airline,
        "origin": origin,
        "dest": fields[_DEST],
        "hour": hour,
        "dep_delay": dep_delay,
        "arr_delay": arr_delay,
        "plane": f"{plane.manufacturer} {plane.model}" if plane else None,
        "seats": plane.seats if plane else None,
        "temperature": weather.temperature if weather else None,
        "visibility": weather.visibility if weather else None,
        "rain": weather.rain if weather else None,
    }
    return _ENCODER.encode(record).encode()
