"""The parts of the flights pipeline; `examples/flights_etl.py` puts them together."""
