"""The process that reads studies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from allpacs.app.destinations import make_destinations
from allpacs.app.model import asking, explaining, make_pipeline, start_model
from allpacs.app.reports import format_checks
from allpacs.app.supervisor import end_process
from allpacs.domain.errors import ModelFault
from allpacs.settings import Settings
from allpacs.store.store import Store

if TYPE_CHECKING:
    from allpacs.audit.trail import AuditTrail
    from allpacs.classify.batcher import Batcher
    from allpacs.classify.bundle import Bundle
    from allpacs.classify.saliency import Explain
    from allpacs.flow import Flow
    from allpacs.study.pipeline import Predict

_log = structlog.get_logger("allpacs.app")

#: A worker that has not asked the index for longer is not ready, seconds.
_LONGEST_IDLE_S = 60.0


def _explain_once(explain: Explain, bundle: Bundle) -> None:
    """Ask for one explanation that nobody needs: the first one loads what the first report would wait for."""
    try:
        explain(bundle.golden()[0][:1], [0])
    except ModelFault as fault:
        _log.warning("model_cannot_explain", reason=str(fault))


def _seconds(days: float | None) -> float | None:
    return None if days is None else days * 86_400


class _Model:
    """A bundle's stages, its network and the reading with both; the network is let go of by `close`."""

    def __init__(self, settings: Settings, store: Store, folder: Path, predict: Predict | None) -> None:
        from allpacs.report.context import FhirOptions
        from allpacs.study.options import StudyOptions
        from allpacs.study.steps import StudySteps

        pipeline = make_pipeline(settings, folder)
        self._batcher: Batcher | None = None
        self._warm_up: threading.Thread | None = None
        explain: Explain | None = None
        if predict is None:
            self._batcher = start_model(settings, pipeline.bundle)
            predict = asking(self._batcher)
            explain = explaining(self._batcher)
            if settings.report.key_images:
                self._warm_up = threading.Thread(
                    target=_explain_once, args=(explain, pipeline.bundle), name="warm-up", daemon=True
                )
        sources = settings.receive.sources.items()
        self.digest = pipeline.bundle.digest
        self.reading = StudySteps(
            store=store,
            pipeline=pipeline,
            predict=predict,
            explain=explain,
            work_folder=settings.store.folder / "work",
            options=StudyOptions(
                chunk_instances=settings.work.chunk_instances,
                cell_finder={
                    ae_title: source.cell_finder for ae_title, source in sources if source.cell_finder is not None
                },
                spacing_um={ae_title: one.spacing_um for ae_title, one in sources if one.spacing_um is not None},
                host_name=socket.gethostname(),
                key_images=settings.report.key_images,
                annotations_above=settings.report.annotations_above,
                pdf=settings.report.pdf,
                fhir=FhirOptions(
                    cells=settings.report.fhir.cells,
                    identifier_systems=settings.report.fhir.identifier_systems,
                    conditional_patient=settings.report.fhir.conditional_patient,
                    wado_url=settings.report.fhir.wado_url,
                ),
                viewer_url=settings.report.viewer_url,
                hl7_pdf=settings.report.hl7_pdf,
            ),
        )

    @property
    def answers(self) -> bool:
        """Whether the network can be asked."""
        return self._batcher is None or self._batcher.alive

    def warm_up(self) -> None:
        """Load what the first report would wait for, beside everything else."""
        thread, self._warm_up = self._warm_up, None
        if thread is not None:
            thread.start()

    def close(self) -> None:
        """Let go of the network."""
        if self._batcher is not None:
            self._batcher.close()


class Worker:
    """The process that reads studies: model, flow and destinations.

    Parameters
    ----------
    predict:
        Another way to predict a model than the bundle's network.
    flow_type:
        Another flow than `Flow`, for example one that is watched.
    audit:
        Is told what was sent.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        predict: Predict | None = None,
        flow_type: Callable[..., Flow] | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        from allpacs.deliver.retry import RetryPolicy
        from allpacs.flow import Flow, FlowOptions, workflow_database
        from allpacs.flow.model_swap import ActiveModel, BundleWatch

        for _, check in format_checks(settings):
            check()
        self._settings, self._store, self._predict = settings, store, predict
        self._watch = BundleWatch(store, settings.model.bundle, self._use)
        self._model = _Model(settings, store, settings.model.bundle, predict)
        self._readings = ActiveModel(self._model.reading, self._model.close)
        self._watch.look()  # what was asked for before this process came
        self._flow = (flow_type or Flow)(
            store=store,
            readings=self._readings,
            destinations=make_destinations(settings),
            audit=audit,
            on_engine_lost=lambda: end_process(1),
            options=FlowOptions(
                system_database_url=workflow_database(settings.store.folder, settings.store.database_url),
                executor_id=settings.work.executor_id,
                studies_at_a_time=settings.work.studies_at_a_time,
                poll_s=settings.work.poll_s,
                takeover_after_s=settings.work.takeover_after_s,
                keep_sources_s=_seconds(settings.store.retain_images_days),
                keep_history_s=_seconds(settings.store.retain_audit_days),
                retry=RetryPolicy(
                    first_s=settings.retry.first_s,
                    cap_s=settings.retry.cap_s,
                    max_attempts=settings.retry.max_attempts,
                ),
            ),
        )

    def start(self) -> None:
        """Take up what was begun, then whatever is due."""
        self._flow.start()
        self._model.warm_up()
        self._watch.start()

    def _use(self, folder: Path) -> str:
        """Load another bundle beside the one in service, and read new studies with it; return its digest."""
        self._model = _Model(self._settings, self._store, folder, self._predict)
        self._model.warm_up()
        self._readings.use(self._model.reading, self._model.close)
        return self._model.digest

    def healthy(self) -> str | None:
        """Return None, or why this process has to be started again."""
        if not self._flow.dispatching:
            return "nothing looks for due work any more"
        if not self._model.answers:
            return "nothing asks the model any more"
        return None

    def ready(self) -> str | None:
        """Return None, or what keeps this process from its work."""
        idle_s = self._flow.idle_s
        return f"the index was last asked {idle_s:.0f} s ago" if idle_s > _LONGEST_IDLE_S else None

    def stop(self) -> None:
        """Finish or checkpoint what runs, then let go of the model."""
        self._watch.stop()
        self._flow.stop()
        self._model.close()
