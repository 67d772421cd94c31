"""Traces: one a study, whichever process tells of it; off, they cost nothing; of patients they say nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from allpacs.domain.errors import ConfigFault
from allpacs.telemetry import tracing

STUDY, OTHER = "1.2.826.0.1", "1.2.826.0.2"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start("work", "http://127.0.0.1:9/v1/traces", "worker-1", exporter)
    yield exporter
    tracing.stop()


def one(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return found


def test_all_that_happens_to_a_study_is_one_trace_whoever_tells_of_it(spans: InMemorySpanExporter) -> None:
    association = tracing.begin("association", STUDY, ago_s=2.0, calling_ae="MICROSCOPE")
    tracing.begin("instance", STUDY, ago_s=0.5, within=association, sop_instance_uid="1.2.3").end()
    association.end()
    received = spans.get_finished_spans()
    tracing.stop()  # the next process knows no more than the study's UID
    worker = InMemorySpanExporter()
    tracing.start("work", "http://127.0.0.1:9/v1/traces", "worker-1", worker)
    tracing.study_closed(STUDY, 1, ago_s=3.0, instances=1)
    with tracing.span("read", STUDY, revision=1) as read:
        with tracing.span("cells", STUDY):
            pass
        read.tell(state="reported")
    told = {span.name: span for span in (*received, *worker.get_finished_spans())}
    assert {span.context.trace_id for span in told.values()} == {int(tracing.trace_id(STUDY), 16)}
    names = {span.context.span_id: name for name, span in told.items()}
    assert {name: span.parent and names[span.parent.span_id] for name, span in told.items()} == {
        "study": None,
        "association": "study",
        "instance": "association",
        "read": "study",
        "cells": "read",
    }
    assert told["association"].end_time - told["association"].start_time >= 2e9
    assert dict(told["read"].attributes) == {
        "allpacs.study_uid": STUDY,
        "allpacs.revision": 1,
        "allpacs.state": "reported",
    }
    assert told["read"].resource.attributes["service.name"] == "allpacs-work"


def test_studies_do_not_mix(spans: InMemorySpanExporter) -> None:
    tracing.study_closed(STUDY, 1, ago_s=0, instances=1)
    with tracing.span("read", OTHER):
        with tracing.span("cells", STUDY):  # within another's, it is still its own study's
            pass
        with tracing.span("plan", OTHER):
            pass
    assert one(spans, "cells").context.trace_id == one(spans, "study").context.trace_id
    assert one(spans, "plan").context.trace_id == one(spans, "read").context.trace_id
    assert one(spans, "plan").context.trace_id != one(spans, "cells").context.trace_id


def test_a_further_revision_is_within_its_study(spans: InMemorySpanExporter) -> None:
    tracing.study_closed(STUDY, 1, ago_s=0, instances=1)
    tracing.study_closed(STUDY, 2, ago_s=0, instances=1)
    first, second = spans.get_finished_spans()
    assert second.parent.span_id == first.context.span_id


def test_of_an_error_only_its_type_is_kept(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="Doe"), tracing.span("read", STUDY, patient="Doe^Jane"):
        raise ValueError("Doe^Jane")
    span = one(spans, "read")
    assert "Doe" not in span.to_json()
    assert span.status.description == "ValueError"
    assert span.attributes["allpacs.patient"] == "(withheld)"


def test_nothing_is_imported_or_done_where_it_is_off() -> None:
    code = (
        "import sys; from allpacs.telemetry import tracing\n"
        "with tracing.span('read', '1.2') as span: span.tell(state='x')\n"
        "tracing.begin('association', '1.2').end()\n"
        "tracing.study_closed('1.2', 1, ago_s=0, instances=1); tracing.stop()\n"
        "assert not tracing.on(); assert not [one for one in sys.modules if one.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigFault, match=r"allpacs\[tracing\]"):
        tracing.start("work", "http://127.0.0.1:9/v1/traces", "worker-1")
