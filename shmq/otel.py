"""OpenTelemetry context in headers, for those who ask for it (``pip install shmq[otel]``).

    queue.publish(b"…", headers=otel.inject())          # the current context travels along

    for delivery in consumer:
        with otel.attached(delivery):                   # and is current while this is handled
            with tracer.start_as_current_span("handle"):
                …

What travels is what the installed propagators write: `traceparent`, `tracestate`, `baggage`. Without
opentelemetry-api everything here does nothing, so a library can call it always. Publishing and
consuming are untouched: who does not call it pays nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shmq.delivery import Delivery
    from shmq.keywords import HeaderValue
    from shmq.message import Message

__all__ = ["attached", "available", "extract", "inject"]


def available() -> bool:
    """Return whether opentelemetry-api is installed."""
    try:
        import opentelemetry.propagate  # noqa: F401
    except ImportError:
        return False
    return True


def inject(headers: Mapping[str, HeaderValue] | None = None) -> dict[str, HeaderValue]:
    """Return ``headers`` and, with them, the current context, for `publish`."""
    carrier: dict[str, HeaderValue] = dict(headers or {})
    if available():
        from opentelemetry import propagate

        context: dict[str, str] = {}
        propagate.inject(context)
        carrier.update(context)
    return carrier


def extract(message: Delivery | Message) -> Any:
    """Return the context that came with a delivery, or None when OpenTelemetry is not installed."""
    if not available():
        return None
    from opentelemetry import propagate

    texts = {key: value for key, value in message.headers.items() if isinstance(value, str)}
    return propagate.extract(texts)


@contextlib.contextmanager
def attached(message: Delivery | Message) -> Iterator[Any]:
    """Make the context that came with a delivery current inside the block."""
    context = extract(message)
    if context is None:
        yield None
        return
    from opentelemetry import context as contexts

    token = contexts.attach(context)
    try:
        yield context
    finally:
        contexts.detach(token)
