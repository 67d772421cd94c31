"""The command line: one verb a command. Parts are imported by the verb that needs them, so that help is quick."""

from __future__ import annotations

import gc
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from allpacs import __version__
from allpacs.commands.peer import peer
from allpacs.commands.process import Process
from allpacs.domain.errors import (
    AllpacsError,
    ConfigFault,
    DeliveryRejected,
    DeliveryUnavailable,
    InputFault,
    ModelFault,
    StoreFault,
)
from allpacs.domain.specimen import PatientAndSpecimen, SpecimenKind, Stain

if TYPE_CHECKING:
    from allpacs.classify.saliency import Explain
    from allpacs.settings import Settings

#: Exit status by kind of error; 2 is a wrong command line.
EXIT_CODES: dict[type[AllpacsError], int] = {
    InputFault: 1,
    ConfigFault: 3,
    ModelFault: 4,
    StoreFault: 5,
    DeliveryUnavailable: 6,
    DeliveryRejected: 6,
}

#: Our AE title as a sender.
SCU_AE_TITLE = "ALLPACS_SCU"

app = typer.Typer(
    name="allpacs",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Classifies white cells of microscopy studies routed by a PACS as ALL blast or normal. Research use only.\n\n"
    "Exit status: 0 done, 1 input cannot be used, 2 wrong command line, 3 configuration, 4 model, "
    "5 this machine's store, 6 a destination or peer did not take it.",
)

#: Longest wait before a receiver that ended is started again, seconds: senders are waiting for it.
_RECEIVER_WAIT_S = 2.0
#: Monitors of several receivers are so many ports apart.
_NEXT_MONITOR = 10

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file; without it, defaults and the environment.")
]
SupervisorOption = Annotated[int | None, typer.Option(hidden=True, help="Process to stop with.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
CallingOption = Annotated[str, typer.Option("--from", help="Our AE title.")]
PeerArgument = Annotated[str, typer.Argument(metavar="AE@HOST:PORT", help="AE title and address of the peer.")]


def main() -> NoReturn:
    """Run the command line; every expected error is one line on standard error and an exit status."""
    try:
        app(standalone_mode=True)
    except AllpacsError as error:
        print(f"allpacs: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of our output has gone, as `| head` does
            sys.stderr.close()
            sys.exit(0)
        where = f"{error.filename}: " if error.filename else ""
        print(f"allpacs: {where}{error.strerror or error}", file=sys.stderr)  # noqa: T201
        sys.exit(EXIT_CODES[StoreFault])
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"allpacs {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _settings(config: Path | None, process: str | None = None) -> Settings:
    """Load the settings, and log as they say; what a process logs is shown in the console, too."""
    from allpacs.settings import load_settings
    from allpacs.telemetry.logs import configure_logs
    from allpacs.telemetry.recent_log import RecentLog

    settings = load_settings(config)
    also = () if process is None else (RecentLog(settings.store.folder, process),)
    configure_logs(settings.log.level, settings.log.format, also)
    return settings


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures or DICOM files; without it, synthetic cells are drawn.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo-out"),
    timeout: Annotated[float, typer.Option(help="Give up after so many seconds.")] = 600.0,
    keep_open: Annotated[
        bool | None,
        typer.Option(
            help="Go on with the review console until Ctrl-C; unless said, where a person is at the terminal."
        ),
    ] = None,
) -> None:
    """Run the whole plugin once, with stand-ins for PACS and EHR, and show what came of it."""
    from allpacs.demo.run import run_demo

    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    run_demo(images, out, timeout_s=timeout, keep_open=at_terminal if keep_open is None else keep_open)


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Run receiver, worker and review console under one supervisor until SIGTERM."""
    from allpacs.app.exclusive import exclusive
    from allpacs.app.supervisor import Supervisor

    settings = _settings(config, "serve")
    arguments = [] if config is None else ["--config", str(config)]
    receivers = _receivers(settings, arguments)
    commands = {**receivers, "work": ["work", *arguments]}
    with exclusive(settings):
        if settings.console.enabled:
            from allpacs.console.server import address

            commands["console"] = ["console", *arguments]
            # Standard output that is no terminal may be a log, and a token has no place there.
            typer.echo(f"review console: {address(settings, with_token=sys.stdout.isatty())}")
        # Senders are waiting for the receiver, and it starts within a second; a worker loads its model each time.
        Supervisor(commands, longest_waits_s=dict.fromkeys(receivers, _RECEIVER_WAIT_S)).run()


def _receivers(settings: Settings, arguments: list[str]) -> dict[str, list[str]]:
    """Return the arguments of each receiver's process by its name."""
    further = range(2, settings.receive.processes + 1)
    return {
        "receive": ["receive", *arguments, "--process", "1"],
        **{f"receive-{number}": ["receive", *arguments, "--process", str(number)] for number in further},
    }


@app.command()
def receive(
    config: ConfigOption = None,
    supervisor: SupervisorOption = None,
    process: Annotated[int | None, typer.Option(hidden=True, min=1)] = None,
) -> None:
    """Run the DICOM receiver alone until SIGTERM."""
    from allpacs.app import (
        make_audit,
        make_receiver,
        open_store,
        recover_in_background,
        start_monitor,
        start_tracing,
    )
    from allpacs.app.supervisor import StopSignals, Supervisor
    from allpacs.telemetry import tracing

    number = process or 1
    name = "receive" if number == 1 else f"receive-{number}"
    settings = _settings(config, "receive")
    if process is None and settings.receive.processes > 1:
        receivers = _receivers(settings, [] if config is None else ["--config", str(config)])
        Supervisor(receivers, longest_wait_s=_RECEIVER_WAIT_S).run()
        return
    store = open_store(settings)
    audit = make_audit(settings, name)
    start_tracing(settings, name)
    receiver = make_receiver(settings, store, audit)
    stop = StopSignals()
    try:
        receiver.start()
    except OSError as error:
        address = f"{settings.receive.host}:{settings.receive.port}"
        raise ConfigFault(
            f"cannot listen on {address} ({error.strerror}): change receive.host or receive.port"
        ) from None

    def not_listening() -> str | None:
        return None if receiver.listening else "nothing listens for associations"

    # What is there at the start stays: the collector need not look through it again while instances come.
    gc.collect()
    gc.freeze()
    port = settings.monitor.receive_port + _NEXT_MONITOR * (number - 1)
    start_monitor(settings, store, port, healthy=not_listening, ready=lambda: None)
    if number == 1:
        recover_in_background(settings, store)
    stop.wait(supervisor)
    receiver.stop()
    tracing.stop()
    audit.stopped(name)


@app.command()
def work(config: ConfigOption = None, supervisor: SupervisorOption = None) -> None:
    """Run the worker (model, reports, deliveries) alone until SIGTERM."""
    from allpacs.app import Worker, make_audit, open_store, start_monitor, start_tracing
    from allpacs.app.supervisor import StopSignals, end_process
    from allpacs.telemetry import tracing

    settings = _settings(config, "work")
    store = open_store(settings)
    audit = make_audit(settings, "work")
    start_tracing(settings, "work")
    worker = Worker(settings, store, audit=audit)
    stop = StopSignals()
    worker.start()
    start_monitor(settings, store, settings.monitor.work_port, healthy=worker.healthy, ready=worker.ready)
    stop.wait(supervisor)
    worker.stop()
    tracing.stop()
    audit.stopped("work")
    end_process()


@app.command()
def console(config: ConfigOption = None, supervisor: SupervisorOption = None) -> None:
    """Run the review console alone until SIGTERM."""
    from allpacs.app import make_audit, open_store
    from allpacs.console.server import address, run_console

    settings = _settings(config, "console")
    store = open_store(settings)
    audit = make_audit(settings, "console")
    if supervisor is None:
        typer.echo(f"review console: {address(settings, with_token=sys.stdout.isatty())}")

    def explain() -> Explain:
        from allpacs.app import explaining, make_pipeline, start_model

        folder = store.bundles.in_use(settings.model.bundle)
        return explaining(start_model(settings, make_pipeline(settings, folder).bundle))

    run_console(settings, store, explain, audit, supervisor=supervisor)
    audit.stopped("console")


@app.command("import")
def import_pictures(
    images: Annotated[list[Path], typer.Argument(help="BMP, PNG, JPEG or TIFF files, or folders of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the DICOM files.")],
    patient_id: Annotated[str, typer.Option(help="Patient ID.")] = "",
    patient_name: Annotated[str, typer.Option(help="Patient's name, as Family^Given.")] = "",
    accession: Annotated[str, typer.Option(help="Accession number.")] = "",
    specimen: Annotated[
        SpecimenKind | None, typer.Option(help="Where the cells come from.", case_sensitive=False)
    ] = None,
    stain: Annotated[Stain | None, typer.Option(help="How the smear was stained.", case_sensitive=False)] = None,
    spacing_um: Annotated[float | None, typer.Option(help="Distance of pixel centres, micrometres.")] = None,
) -> None:
    """Turn pictures from a microscope camera into one study of VL Microscopic Image instances."""
    from allpacs.commands.files import picture_files
    from allpacs.commands.progress import counted
    from allpacs.study.import_images import import_pictures as write_study

    patient = PatientAndSpecimen(
        patient_id=patient_id, patient_name=patient_name, accession_number=accession, kind=specimen, stain=stain
    )
    files = picture_files(images)
    bad: list[InputFault] = []
    with counted("importing", len(files)) as advance:
        written = write_study(
            files,
            out,
            patient=patient,
            made_at=datetime.now(UTC).astimezone(),
            spacing_um=spacing_um,
            progress=advance,
            on_bad=lambda _, fault: bad.append(fault),
        )
    for fault in bad:
        typer.echo(str(fault), err=True)
    typer.echo(f"{len(written)} instances in {out}")
    if bad:
        raise InputFault(f"{len(bad)} of {len(files)} files could not be imported: see above")


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="DICOM file or folder of them.")],
    to: Annotated[str, typer.Option(metavar="AE@HOST:PORT", help="Who takes them.")],
    calling: CallingOption = SCU_AE_TITLE,
) -> None:
    """Send DICOM files by C-STORE and check every status."""
    from allpacs.commands.files import dicom_files
    from allpacs.commands.progress import counted
    from allpacs.deliver.c_store import send_files

    called_ae, host, port = peer(to)
    files = dicom_files([folder])
    with counted("sending", len(files)) as advance:
        outcomes = send_files(files, host, port, called_ae, calling, lambda _: advance())
    refused = [outcome for outcome in outcomes if not outcome.stored]
    for outcome in outcomes:
        if outcome.warned or not outcome.stored:
            typer.echo(f"{outcome.path}: {outcome.note}", err=True)
    typer.echo(f"{len(outcomes) - len(refused)} of {len(outcomes)} instances stored by {called_ae}")
    if refused:
        raise DeliveryRejected(f"{called_ae} did not store {len(refused)} of {len(outcomes)} instances: see above")


@app.command()
def echo(to: PeerArgument, calling: CallingOption = SCU_AE_TITLE) -> None:
    """Ask a DICOM peer whether it is there (C-ECHO)."""
    from allpacs.deliver.c_store import echo as c_echo

    called_ae, host, port = peer(to)
    typer.echo(c_echo(host, port, called_ae, calling))


@app.command()
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, DICOM files, or folders of them.")],
    config: ConfigOption = None,
    spacing_um: Annotated[
        float | None,
        typer.Option(
            min=0.02, max=1.0, help="Pixel size in µm, used when neither the image nor its red cells give one."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify the cells of images without a server."""
    from allpacs.commands.classify_files import classify_files
    from allpacs.settings import load_settings
    from allpacs.telemetry.logs import configure_logs

    configure_logs("error")
    answer = classify_files(paths, load_settings(config), spacing_um=spacing_um)
    if as_json:
        typer.echo(json.dumps(answer.as_json(), ensure_ascii=False, indent=1))
    else:
        answer.print_table()
    if answer.faults:
        raise InputFault(f"{answer.faults} of {len(answer.images)} images could not be read: see above")


@app.command()
def studies(
    config: ConfigOption = None,
    state: Annotated[str | None, typer.Option(help="Only studies in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """List studies and how far they have come."""
    from allpacs.app import open_store
    from allpacs.commands.show import studies_json, studies_table
    from allpacs.store.records import RECEIVING, RevisionState

    states = {RECEIVING, *RevisionState}
    if state is not None and state not in states:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(sorted(states))}", param_hint="--state")
    store = open_store(_settings(config))
    rows = store.studies.latest(state=state, limit=limit)
    if as_json:
        typer.echo(json.dumps(studies_json(rows), indent=1))
    else:
        studies_table(rows)


@app.command()
def show(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or its beginning.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one study: its revisions, cells, results and deliveries."""
    from allpacs.app import open_store
    from allpacs.commands.show import one_study, study_json, study_tables

    store = open_store(_settings(config))
    details = study_json(store, one_study(store, study))
    if as_json:
        typer.echo(json.dumps(details, indent=1))
    else:
        study_tables(details)


@app.command()
def retry(
    study: Annotated[str, typer.Argument(help="Study Instance UID, or its beginning.")],
    to: Annotated[
        str | None,
        typer.Option(help="Destination that takes over results of destinations that are no longer configured."),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Analyse a study again that needs attention, or repeat its failed deliveries."""
    import time

    from allpacs.app import open_store
    from allpacs.commands.show import one_study
    from allpacs.store.retries import retry_study

    settings = _settings(config)
    if to is not None and to not in settings.destinations:
        raise ConfigFault(f"there is no destination {to}: use one of {', '.join(sorted(settings.destinations))}")
    store = open_store(settings)
    row = one_study(store, study)
    asked = retry_study(store, row.study_uid, now=time.time(), to=to, configured=settings.destinations)
    for revision, destination in asked.moved:
        typer.echo(f"revision {revision} of {row.study_uid} goes to {to} instead of {destination}")
    if asked.read is not None:
        typer.echo(f"revision {asked.read} of {row.study_uid} will be read again")
    for revision, destination in asked.delivered:
        typer.echo(f"revision {revision} of {row.study_uid} will be delivered to {destination} again")
    if asked.nothing:
        typer.echo(f"nothing to retry: {row.study_uid} is {row.state}")


@app.command("use-model")
def use_model(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the bundle, as every worker sees it; without it: what was asked.")
    ] = None,
    config: ConfigOption = None,
    wait: Annotated[float, typer.Option(min=0, help="Wait so many seconds for a worker's answer.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Let running workers read new studies with another bundle; those that were begun end with the old one."""
    from allpacs.app import open_store
    from allpacs.commands.use_model import ask_for, changes_json, changes_lines

    settings = _settings(config)
    store = open_store(settings)
    if folder is not None:
        typer.echo(ask_for(store, settings, folder, wait_s=wait))
    elif as_json:
        typer.echo(json.dumps(changes_json(store.bundles.latest()), indent=1))
    else:
        typer.echo("\n".join(changes_lines(store.bundles.latest())))


@app.command()
def verify(
    config: ConfigOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Take in, or put aside, files that the index does not know.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare everything that is kept with the index and its digests; slow where there is much."""
    from allpacs.app import open_store
    from allpacs.commands.verify import print_verified
    from allpacs.commands.verify import verify as look

    settings = _settings(config)
    found = look(open_store(settings), settings, repair=repair)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        print_verified(found)
    wrong = found["missing"] + found["altered"] + found["orphan"]
    if wrong:
        raise StoreFault(f"{wrong} files are not as they were kept: see above")


@app.command()
def init(
    config: Annotated[Path, typer.Option("--config", "-c", help="File to write.")] = Path("allpacs.toml"),
    listen: Annotated[
        str | None, typer.Option(metavar="AE@HOST:PORT", help="Where the PACS shall find allpacs.")
    ] = None,
    senders: Annotated[str | None, typer.Option(help="AE titles that may send, with commas between.")] = None,
    pacs: Annotated[
        str | None, typer.Option(metavar="AE@HOST:PORT", help="PACS that gets the structured reports.")
    ] = None,
    fhir: Annotated[str | None, typer.Option(help="Base address of the EHR's FHIR R4 server.")] = None,
    folder: Annotated[str | None, typer.Option(help="Folder for images, index and results.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take the default where no option says.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Ask five questions and write a configuration that works."""
    from allpacs.commands.init import QUESTIONS, answer, write_configuration

    given = {"listen": listen, "senders": senders, "pacs": pacs, "fhir": fhir, "folder": folder}
    answers = {name: answer(question, given[name], ask=not yes) for name, question in QUESTIONS.items()}
    write_configuration(answers, config, overwrite=force)
    typer.echo(f"{config} is written. Next: allpacs check-config --config {config}")


@app.command()
def health(
    process: Annotated[Process, typer.Argument(help="Who is asked.")],
    config: ConfigOption = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it can serve now, not only whether it lives.")
    ] = False,
) -> None:
    """Ask receiver or worker of this machine whether it is well."""
    from allpacs.commands.health import ask_health
    from allpacs.settings import load_settings

    typer.echo(ask_health(load_settings(config), process, ready=ready))


@app.command("check-config")
def check_config(
    config: ConfigOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out the run of the network.")] = False,
) -> None:
    """Check the configuration and everything it names; say what to fix."""
    from allpacs.commands.check_config import run_checks
    from allpacs.settings import load_settings
    from allpacs.telemetry.logs import configure_logs

    settings = load_settings(config)
    configure_logs("error")
    failed = run_checks(settings, quick=quick)
    if failed:
        raise ConfigFault(f"{failed} checks failed: see above")
