"""Composition root: the one place where settings become live parts."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from allpacs import tracing
from allpacs.domain.errors import ConfigFault, ModelFault, StoreFault
from allpacs.settings import (
    CStoreSettings,
    DestinationSettings,
    FhirSettings,
    FolderSettings,
    MllpSettings,
    ServerTlsSettings,
    Settings,
    StowRsSettings,
    TlsSettings,
)
from allpacs.store.store import Store

# Parts are imported where they are made: the receiver must be up without loading the model's libraries.
if TYPE_CHECKING:
    from allpacs.audit.trail import AuditTrail
    from allpacs.classify.batcher import Batcher
    from allpacs.classify.bundle import Bundle
    from allpacs.classify.saliency import Explain
    from allpacs.commitment import Answer
    from allpacs.deliver.port import Destination
    from allpacs.deliver.smart import BackendServices
    from allpacs.flow import Flow
    from allpacs.monitor import Check, Monitor
    from allpacs.pipeline import AskModel, Pipeline
    from allpacs.receive.scp import StorageScp
    from allpacs.tls import Tls

_log = structlog.get_logger("allpacs.app")

#: A worker that has not asked the index for longer is not ready, seconds.
_LONGEST_IDLE_S = 60.0
#: A file staged for longer than this was left by a receiver that was killed, seconds.
_STAGED_FOR_S = 86_400.0


def open_store(settings: Settings) -> Store:
    """Open the store that the settings name, making it where there is none yet."""
    return Store.open(settings.store.folder, settings.store.database_url)


def accepted_transfer_syntaxes() -> tuple[str, ...]:
    """Return the UIDs of the transfer syntaxes that the receiver accepts: those that can be decoded."""
    from allpacs.decode.part10 import SUPPORTED_TRANSFER_SYNTAXES

    return SUPPORTED_TRANSFER_SYNTAXES


def make_receiver(settings: Settings, store: Store, audit: AuditTrail | None = None) -> StorageScp:
    """Return the Storage SCP, not yet started."""
    from allpacs.receive.capacity import CapacityLimits
    from allpacs.receive.commitment import CommitmentService
    from allpacs.receive.scp import SourceRule, StorageScp

    store.spool.sweep(time.time() - _STAGED_FOR_S)
    receive = settings.receive
    rules = {
        ae_title: SourceRule(
            quiet_s=receive.quiet_s if source.quiet_s is None else source.quiet_s,
            max_age_s=receive.max_age_s,
            close_on_release=source.close_on_release,
            instances_per_s=source.instances_per_s,
            count_in=source.count_in,
        )
        for ae_title, source in receive.sources.items()
    }
    return StorageScp(
        store.receiving,
        host=receive.host,
        port=receive.port,
        ae_title=receive.ae_title,
        transfer_syntaxes=accepted_transfer_syntaxes(),
        default_rule=SourceRule(quiet_s=receive.quiet_s, max_age_s=receive.max_age_s),
        rules=rules,
        require_called_ae=receive.require_called_ae_title,
        allowed_calling=receive.allowed_calling,
        allowed_networks=receive.allowed_networks,
        tls=None if receive.tls is None else make_tls(receive.tls, "receive.tls"),
        max_associations=receive.max_associations,
        max_pdu_bytes=receive.max_pdu,
        max_memory_bytes=receive.max_memory_mb * 1_000_000,
        limits=CapacityLimits(
            min_free_bytes=receive.min_free_mb * 1_000_000,
            resume_free_bytes=int(
                1_000_000 * (1.1 * receive.min_free_mb if receive.resume_free_mb is None else receive.resume_free_mb)
            ),
            max_waiting=receive.max_waiting,
        ),
        commitments=CommitmentService(store.commitments, report_back=_report_back(settings)),
        shares_port=receive.processes > 1,
        audit=audit,
    )


def recover_in_background(settings: Settings, store: Store) -> threading.Thread:
    """Begin to look for files that a crash left without a row in the index; senders are served meanwhile."""
    from allpacs.recovery import recover

    def run() -> None:
        try:
            recover(store, quiet_s=settings.receive.quiet_s, max_age_s=settings.receive.max_age_s)
        except StoreFault as fault:  # looked for again at the next start
            _log.error("recovery_failed", reason=str(fault))

    thread = threading.Thread(target=run, name="recovery", daemon=True)
    thread.start()
    return thread


def _report_back(settings: Settings) -> dict[str, Callable[[Answer], None]]:
    """Return how senders are told what we commit to, by calling AE title."""
    from functools import partial

    from allpacs.deliver.association import Peer
    from allpacs.deliver.commitment import report_commitment

    made: dict[str, Callable[[Answer], None]] = {}
    for ae_title, source in settings.receive.sources.items():
        if (peer := source.commitment) is not None:
            section = f"receive.sources.{ae_title}.commitment.tls"
            tls = None if peer.tls is None else make_tls(peer.tls, section)
            to = Peer(peer.host, peer.port, ae_title, settings.receive.ae_title, peer.timeout_s, tls)
            made[ae_title] = partial(report_commitment, to)
    return made


def make_audit(settings: Settings, process: str) -> AuditTrail:
    """Return the audit trail of a process, which tells of its start."""
    from allpacs.audit.trail import NoTrail, SyslogTrail

    one = settings.audit
    if one.host is None:
        return NoTrail()
    trail = SyslogTrail(
        settings.store.folder / "audit" / process,
        one.host,
        one.port,
        ae_title=settings.receive.ae_title,
        source_id=one.source_id,
        tls=None if one.tls is None else make_tls(one.tls, "audit.tls"),
    )
    trail.started(process)
    return trail


def start_tracing(settings: Settings, process: str) -> None:
    """Send this process's spans to the configured collector, if there is one.

    Parameters
    ----------
    process:
        ``work``, ``receive``, or of several receivers ``receive-2`` and so on.

    Raises
    ------
    ConfigFault
        There is one, and OpenTelemetry is not installed.
    """
    endpoint = settings.tracing.endpoint
    if endpoint is not None:
        instance = settings.work.executor_id if process == "work" else f"{socket.gethostname()}/{process}"
        tracing.start(process.partition("-")[0], endpoint, instance)


def start_monitor(settings: Settings, store: Store, port: int, *, healthy: Check, ready: Check) -> Monitor | None:
    """Serve a process's health and metrics; None where that is turned off or its port is taken.

    A port that is taken is no reason not to receive or to work: it is logged.

    Parameters
    ----------
    ready:
        What else has to be well than the store.
    """
    from allpacs.monitor import Monitor, StoreMetrics

    one = settings.monitor
    if not one.enabled:
        return None

    def all_ready() -> str | None:
        try:
            store.receiving.waiting()
            if store.receiving.free_bytes() < settings.receive.min_free_mb * 1_000_000:
                return "free disk is below receive.min_free_mb"
        except StoreFault as fault:
            return str(fault)
        return healthy() or ready()

    monitor = Monitor(
        one.host,
        port,
        healthy=healthy,
        ready=all_ready,
        collector=StoreMetrics(store),
        token=None if one.bearer_token is None else one.bearer_token.get_secret_value(),
        tls=None if one.tls is None else make_tls(one.tls, "monitor.tls"),
    )
    try:
        monitor.start()
    except OSError as error:
        _log.error("monitor_not_started", host=one.host, port=port, reason=error.strerror)
        return None
    return monitor


def make_destinations(settings: Settings) -> dict[str, Destination]:
    """Return the configured destinations by name.

    Raises
    ------
    ConfigFault
        One of them cannot be one: the message names it and says what to change.
    """
    made: dict[str, Destination] = {}
    for name, one in settings.destinations.items():
        try:
            made[name] = make_destination(settings, one)
        except ConfigFault as fault:
            raise ConfigFault(f"destinations.{name}: {fault}") from None
    return made


def make_destination(settings: Settings, one: DestinationSettings) -> Destination:
    """Return one destination.

    Raises
    ------
    ConfigFault
        It cannot be one: the message says what to change.
    """
    match one:
        case CStoreSettings():
            from allpacs.deliver.c_store import CStoreDestination

            calling = settings.receive.ae_title
            tls = None if one.tls is None else make_tls(one.tls, "tls")
            return CStoreDestination(
                one.host,
                one.port,
                one.called_ae,
                calling,
                timeout_s=one.timeout_s,
                tls=tls,
                commitment=one.commitment,
                commitment_within_s=one.commitment_within_s,
            )
        case StowRsSettings():
            from allpacs.deliver.stow_rs import StowRsDestination

            token = None if one.bearer_token is None else one.bearer_token.get_secret_value()
            tls = None if one.tls is None else make_tls(one.tls, "tls")
            return StowRsDestination(one.base_url, bearer_token=token, timeout_s=one.timeout_s, tls=tls)
        case FhirSettings():
            from allpacs.deliver.fhir_rest import FhirRestDestination

            token = None if one.bearer_token is None else one.bearer_token.get_secret_value()
            tls = None if one.tls is None else make_tls(one.tls, "tls")
            tokens = _make_tokens(one, tls)
            return FhirRestDestination(
                one.base_url, bearer_token=token, tokens=tokens, timeout_s=one.timeout_s, tls=tls
            )
        case MllpSettings():
            from allpacs.deliver.mllp import MllpDestination

            tls = None if one.tls is None else make_tls(one.tls, "tls")
            return MllpDestination(
                one.host,
                one.port,
                application=one.application,
                facility=one.facility,
                timeout_s=one.timeout_s,
                tls=tls,
            )
        case FolderSettings():
            from allpacs.deliver.folder import FolderDestination

            return FolderDestination(one.folder)


def _make_tokens(one: FhirSettings, tls: Tls | None) -> BackendServices | None:
    from allpacs.deliver.smart import BackendServices

    oauth = one.oauth
    if oauth is None:
        return None
    return BackendServices(
        oauth.token_url,
        oauth.client_id,
        oauth.private_key,
        key_id=oauth.key_id,
        scope=oauth.scope,
        timeout_s=one.timeout_s,
        tls=tls if oauth.token_url.startswith("https://") else None,
    )


def make_tls(one: TlsSettings | ServerTlsSettings, section: str) -> Tls:
    """Return TLS settings that follow their files.

    Raises
    ------
    ConfigFault
        A file is missing or cannot be used; the message names the section and the file.
    """
    from allpacs.tls import TlsFiles, client_tls, server_tls

    password = None if one.key_password is None else one.key_password.get_secret_value()
    files = TlsFiles(one.certificate, one.key, password, one.trusted)
    try:
        if isinstance(one, ServerTlsSettings):
            return server_tls(files, require_client_certificate=one.require_client_certificate)
        return client_tls(files, check_hostname=one.check_hostname)
    except ConfigFault as fault:
        raise ConfigFault(f"{section}: {fault}") from None


def make_pipeline(settings: Settings, folder: Path | None = None) -> Pipeline:
    """Return the stages with a bundle.

    Parameters
    ----------
    folder:
        Of the bundle; None: the configured one.

    Raises
    ------
    ModelFault
        The bundle is not what it says it is, or not signed by whom `model.trusted_key` trusts.
    """
    from allpacs.classify.bundle import load_bundle
    from allpacs.pipeline import Pipeline

    work = settings.work
    folder = settings.model.bundle if folder is None else folder
    if settings.model.trusted_key is not None:
        from allpacs.classify.signature import check_signature

        check_signature(folder, settings.model.trusted_key)
    return Pipeline(load_bundle(folder), max_pixels=work.max_pixels, max_cells=work.max_cells)


def start_model(settings: Settings, bundle: Bundle) -> Batcher:
    """Load the network, check it against the bundle's golden cells, and return its batcher.

    Raises
    ------
    ModelFault
        The network cannot be loaded, or answers otherwise than the bundle says.
    """
    from allpacs.classify.batcher import Batcher
    from allpacs.classify.engines.choose import ModelServer, start_engine

    model = settings.model
    server = None
    if model.remote_url is not None:
        token = None if model.remote_token is None else model.remote_token.get_secret_value()
        server = ModelServer(model.remote_url, model.remote_model, token, model.remote_timeout_s)
    engine = start_engine(bundle, model.engine, threads=model.threads, cache=model.cache, server=server)
    return Batcher(engine, max_batch=model.max_batch, max_delay_s=model.max_delay_s, outputs=len(bundle.outputs))


def asking(batcher: Batcher) -> AskModel:
    """Return the way to ask a batcher and wait for its answer."""
    return lambda crops: batcher.submit(crops).result()


def explaining(batcher: Batcher) -> Explain:
    """Return the way to ask which parts of cells spoke for their labels."""
    from allpacs.classify.engines.port import Explainer
    from allpacs.classify.saliency import saliency

    engine = batcher.engine
    explainer = engine if isinstance(engine, Explainer) else None
    return lambda crops, toward: saliency(crops, asking(batcher), explainer, toward)


def _explain_once(explain: Explain, bundle: Bundle) -> None:
    """Ask for one explanation that nobody needs: the first one loads what the first report would wait for."""
    try:
        explain(bundle.golden()[0][:1], [0])
    except ModelFault as fault:
        _log.warning("model_cannot_explain", reason=str(fault))


class _Model:
    """A bundle's stages, its network and the reading with both; the network is let go of by `close`."""

    def __init__(self, settings: Settings, store: Store, folder: Path, ask: AskModel | None) -> None:
        from allpacs.reading import Reading, ReadingOptions

        pipeline = make_pipeline(settings, folder)
        self._batcher: Batcher | None = None
        self._warm_up: threading.Thread | None = None
        explain: Explain | None = None
        if ask is None:
            self._batcher = start_model(settings, pipeline.bundle)
            ask = asking(self._batcher)
            explain = explaining(self._batcher)
            if settings.report.key_images:
                self._warm_up = threading.Thread(
                    target=_explain_once, args=(explain, pipeline.bundle), name="warm-up", daemon=True
                )
        sources = settings.receive.sources.items()
        self.digest = pipeline.bundle.digest
        self.reading = Reading(
            store=store,
            pipeline=pipeline,
            ask=ask,
            explain=explain,
            work_folder=settings.store.folder / "work",
            options=ReadingOptions(
                chunk_instances=settings.work.chunk_instances,
                cells_by={ae_title: source.cells for ae_title, source in sources if source.cells is not None},
                spacing_um={ae_title: one.spacing_um for ae_title, one in sources if one.spacing_um is not None},
                host_name=socket.gethostname(),
                key_images=settings.report.key_images,
                annotations_above=settings.report.annotations_above,
                pdf=settings.report.pdf,
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
    ask:
        Another way to ask a model than the bundle's network.
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
        ask: AskModel | None = None,
        flow_type: Callable[..., Flow] | None = None,
        audit: AuditTrail | None = None,
    ) -> None:
        from allpacs.bundle_swap import BundleWatch, InService
        from allpacs.deliver.retry import RetryPolicy
        from allpacs.flow import Flow, FlowOptions, workflow_database
        from allpacs.report.pdf import check_printing

        if settings.report.pdf:
            check_printing()
        self._settings, self._store, self._ask = settings, store, ask
        self._watch = BundleWatch(store, settings.model.bundle, self._use)
        self._model = _Model(settings, store, settings.model.bundle, ask)
        self._readings = InService(self._model.reading, self._model.close)
        self._watch.look()  # what was asked for before this process came
        self._flow = (flow_type or Flow)(
            store=store,
            readings=self._readings,
            destinations=make_destinations(settings),
            audit=audit,
            options=FlowOptions(
                system_database_url=workflow_database(settings.store.folder, settings.store.database_url),
                executor_id=settings.work.executor_id,
                studies_at_a_time=settings.work.studies_at_a_time,
                poll_s=settings.work.poll_s,
                takeover_after_s=settings.work.takeover_after_s,
                keep_sources_s=None if settings.store.keep_days is None else settings.store.keep_days * 86_400,
                keep_history_s=None if settings.store.history_days is None else settings.store.history_days * 86_400,
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
        self._model = _Model(self._settings, self._store, folder, self._ask)
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
