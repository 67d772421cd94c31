"""OpenTelemetry traces of studies, from association to delivery: optional, and off where no collector is configured.

A trace is a study. Its id is derived from the Study Instance UID, as the id of its first span is, so that receivers,
workers and what goes on after a crash or on another machine add to one trace: all that has to be carried through the
store is there already. Attributes are those that a log line may have; no exception's text is kept.

The SDK is the extra ``allpacs[tracing]`` and imported by `start` only. Until then everything here does nothing.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from allpacs import __version__
from allpacs.domain.errors import ConfigFault
from allpacs.telemetry.logs import only_allowed_keys

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

#: What is still to be sent when a process stops may take so long.
_FLUSH_S = 3.0
_EXPORT_TIMEOUT_S = 5.0

_tracer: Tracer | None = None
_provider: Any = None
_ids: Any = None


def start(process: str, endpoint: str, instance: str, exporter: SpanExporter | None = None) -> None:
    """Send the spans of this process to a collector.

    A collector that is away costs nothing but its spans: what waits is bounded, and the oldest goes.

    Parameters
    ----------
    process:
        ``receive`` or ``work``.
    endpoint:
        URL that takes OTLP over HTTP, for example ``http://collector:4318/v1/traces``. Headers and certificates are
        taken from the environment variables of OpenTelemetry's specification (``OTEL_EXPORTER_OTLP_HEADERS`` …).
    instance:
        Name of this process among its like.
    exporter:
        Takes the spans instead, one by one.

    Raises
    ------
    ConfigFault
        The extra is not installed.
    """
    global _tracer, _provider, _ids  # one a process, as its metrics are
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
    except ImportError:
        raise ConfigFault("tracing.endpoint: OpenTelemetry is missing: pip install 'allpacs[tracing]'") from None

    class Ids(RandomIdGenerator):
        """Gives the first span of a trace the ids that were set for it in this thread."""

        root = threading.local()

        def generate_trace_id(self) -> int:
            return int(getattr(self.root, "trace_id", 0)) or super().generate_trace_id()

        def generate_span_id(self) -> int:
            return int(getattr(self.root, "span_id", 0)) or super().generate_span_id()

    logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # one line for spans that were lost, none for each try
    about = {
        "service.namespace": "allpacs",
        "service.name": f"allpacs-{process}",
        "service.instance.id": instance,
        "service.version": __version__,
    }
    _ids = Ids()
    _provider = TracerProvider(resource=Resource.create(about), id_generator=_ids, shutdown_on_exit=False)
    _provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S))
        if exporter is None
        else SimpleSpanProcessor(exporter)
    )
    _tracer = _provider.get_tracer("allpacs", __version__)


def stop() -> None:
    """Send what waits, within a few seconds, and end."""
    global _tracer, _provider, _ids
    if _provider is not None:
        flush = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        flush.start()
        flush.join(_FLUSH_S)
    _tracer = _provider = _ids = None


def on() -> bool:
    """Whether spans are sent: for what has to be asked of the index for them alone."""
    return _tracer is not None


def trace_id(study_uid: str) -> str:
    """Return the id of a study's trace: 32 hexadecimal digits."""
    return _digest(study_uid)[:32]


class Running:
    """A span that is under way; where nothing is traced, its methods do nothing."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def tell(self, **attributes: object) -> None:
        """Add attributes."""
        if self._span is not None:
            self._span.set_attributes(_named(attributes))

    def end(self) -> None:
        """End it now."""
        if self._span is not None:
            self._span.end()

    @property
    def within(self) -> Context | None:
        """Where its children belong."""
        if self._span is None:
            return None
        from opentelemetry.trace import set_span_in_context

        return set_span_in_context(self._span)


def begin(
    name: str, study_uid: str, *, ago_s: float = 0.0, within: Running | None = None, **attributes: object
) -> Running:
    """Begin a span that `Running.end` ends.

    Parameters
    ----------
    ago_s:
        It began so long ago.
    within:
        What it is a part of; None: of the study.
    """
    if _tracer is None:
        return Running(None)
    parent = _study(study_uid) if within is None else within.within
    return Running(
        _tracer.start_span(
            name,
            context=parent,
            start_time=_ns_ago(ago_s),
            attributes=_named({"study_uid": study_uid, **attributes}),
        )
    )


@contextmanager
def span(name: str, study_uid: str, **attributes: object) -> Iterator[Running]:
    """Trace a block, within the one around it in this thread, or else within the study.

    Of an exception that leaves it only the type is kept.
    """
    if _tracer is None:
        yield Running(None)
        return
    from opentelemetry.trace import Status, StatusCode, get_current_span

    around = get_current_span()
    within_ours = around.get_span_context().trace_id == int(trace_id(study_uid), 16)
    with _tracer.start_as_current_span(
        name,
        context=None if within_ours else _study(study_uid),
        attributes=_named({"study_uid": study_uid, **attributes}),
        record_exception=False,
        set_status_on_exception=False,
    ) as own:
        try:
            yield Running(own)
        except BaseException as error:
            own.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def study_closed(study_uid: str, revision: int, *, ago_s: float, instances: int) -> None:
    """Tell of a study that is complete; it began `ago_s` ago, with its first instance.

    Of the first revision this makes the span that all others of the trace are within.
    """
    if _tracer is None:
        return
    if revision > 1:
        begin("study", study_uid, ago_s=ago_s, revision=revision, instances=instances).end()
        return
    from opentelemetry.context import Context

    digest = _digest(study_uid)
    _ids.root.trace_id, _ids.root.span_id = int(digest[:32], 16), int(digest[32:48], 16)
    try:
        own = _tracer.start_span(
            "study",
            context=Context(),
            start_time=_ns_ago(ago_s),
            attributes=_named({"study_uid": study_uid, "revision": revision, "instances": instances}),
        )
    finally:
        _ids.root.trace_id = _ids.root.span_id = 0
    own.end()


def _digest(study_uid: str) -> str:
    return hashlib.sha256(f"trace {study_uid}".encode()).hexdigest()


def _study(study_uid: str) -> Context:
    """Return the context of a study's first span, whichever process makes it."""
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    digest = _digest(study_uid)
    first = SpanContext(
        int(digest[:32], 16), int(digest[32:48], 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )
    return set_span_in_context(NonRecordingSpan(first))


def _named(attributes: dict[str, object]) -> dict[str, Any]:
    """Return attributes under our prefix; what may not be logged may not be here either."""
    allowed = only_allowed_keys(None, "", dict(attributes))
    return {
        f"allpacs.{key}": value if isinstance(value, (bool, int, float)) else str(value)
        for key, value in allowed.items()
        if value is not None
    }


def _ns_ago(seconds: float) -> int:
    return time.time_ns() - int(seconds * 1e9)
