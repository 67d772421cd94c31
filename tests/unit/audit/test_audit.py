"""Audit messages by the standard, spooled until a syslog server has them, over TLS to a real one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from allpacs.app import make_audit
from allpacs.audit.messages import SOURCE, AuditEvent, Outcome, Participant, audit_message
from allpacs.audit.trail import SyslogTrail
from allpacs.dicom.tls import Tls, client_tls, server_tls
from allpacs.settings import AuditSettings, StoreSettings, WorkSettings, load_settings
from conformance.support.certificates import Authority
from conformance.support.network import free_port, wait_until


class Syslog:
    """A stand-in for a syslog server: takes octet-counted frames and keeps them."""

    def __init__(self, port: int = 0, tls: Tls | None = None) -> None:
        self.frames: list[bytes] = []
        self.versions: set[str | None] = set()
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._tls is not None:
                    connection = self._tls().wrap_socket(connection, server_side=True)
                    self.versions.add(connection.version())
                with connection.makefile("rb") as stream:
                    while length := self._length(stream.read):
                        self.frames.append(stream.read(length))
            except (OSError, ssl.SSLError):
                continue
            finally:
                connection.close()

    @staticmethod
    def _length(read: Callable[[int], bytes]) -> int:
        digits = b""
        while (one := read(1)) not in (b" ", b""):
            digits += one
        return int(digits or 0)

    def close(self) -> None:
        self._listener.close()

    @property
    def messages(self) -> list[ET.Element]:
        return [ET.fromstring(frame.partition(b"\xef\xbb\xbf")[2]) for frame in self.frames]  # noqa: S314


@contextmanager
def trail(folder: Path, port: int, tls: Tls | None = None, spools: Path | None = None) -> Iterator[SyslogTrail]:
    made = SyslogTrail(folder, "127.0.0.1", port, ae_title="ALLPACS", source_id="lab 1", tls=tls, spools=spools)
    try:
        yield made
    finally:
        made.close(within_s=0.0)


def test_a_message_has_the_parts_that_the_standard_asks_for() -> None:
    xml = audit_message(
        AuditEvent.INSTANCES_RECEIVED,
        at=1_700_000_000.0,
        source_id="lab 1",
        participants=[Participant("PACS", SOURCE, requestor=True, address="10.0.0.1")],
        outcome=Outcome.MINOR_FAILURE,
        studies=["1.2.3"],
        detail="3 instances kept, 1 refused",
    )
    message = ET.fromstring(xml)  # noqa: S314 - our own
    identification = message.find("EventIdentification")
    assert identification is not None
    assert identification.attrib == {
        "EventActionCode": "C",
        "EventDateTime": "2023-11-14T22:13:20.000+00:00",
        "EventOutcomeIndicator": "4",
    }
    event_id = identification.find("EventID")
    assert event_id is not None
    assert (event_id.get("csd-code"), event_id.get("codeSystemName")) == ("110104", "DCM")
    (active,) = message.findall("ActiveParticipant")
    assert (active.get("UserID"), active.get("UserIsRequestor")) == ("PACS", "true")
    assert (active.get("NetworkAccessPointID"), active.get("NetworkAccessPointTypeCode")) == ("10.0.0.1", "2")
    source = message.find("AuditSourceIdentification")
    assert source is not None
    assert source.get("AuditSourceID") == "lab 1"
    study, patient = message.findall("ParticipantObjectIdentification")
    assert study.get("ParticipantObjectID") == "1.2.3"
    assert patient.get("ParticipantObjectID") == "withheld"


@pytest.mark.parametrize("event", AuditEvent)
def test_every_event_is_well_formed_and_names_its_code(event: AuditEvent) -> None:
    xml = audit_message(
        event, at=0.0, source_id="<&\"'", participants=[Participant("<A&B>\x00", SOURCE)], detail="a < b"
    )
    message = ET.fromstring(xml)  # noqa: S314
    assert [one.get("csd-code") for one in message.iter("EventID")] == [event.value[0]]
    assert next(message.iter("ActiveParticipant")).get("UserID") == "<A&B>?"


def test_what_a_person_did_names_the_person_and_us(tmp_path: Path) -> None:
    server = Syslog()
    with trail(tmp_path / "audit", server.port) as made:
        made.person(AuditEvent.STUDY_SIGNED, "ada", "10.0.0.9", studies=["1.2.3"])
        made.person(AuditEvent.SIGNED_IN, "", "10.0.0.9", failure="wrong token")
        wait_until(lambda: len(server.frames) == 2, 10, "both")
    server.close()
    signed, refused = server.messages
    person, we = signed.findall("ActiveParticipant")
    assert (person.get("UserID"), person.get("NetworkAccessPointID")) == ("ada", "10.0.0.9")
    assert person.find("RoleIDCode") is None
    assert we.get("UserID") == "ALLPACS"
    assert signed.findall("ParticipantObjectIdentification")[0].get("ParticipantObjectID") == "1.2.3"
    assert [one.get("csd-code") for one in refused.iter("EventTypeCode")] == ["110122"]
    assert refused.findall("ActiveParticipant")[0].get("UserID") == "unknown"
    assert refused.find("EventIdentification").get("EventOutcomeIndicator") == "8"  # type: ignore[union-attr]


def test_messages_arrive_in_order_in_syslog_form_and_leave_the_spool(tmp_path: Path) -> None:
    server = Syslog()
    with trail(tmp_path / "audit", server.port) as made:
        made.started("receive")
        made.received("PACS", "127.0.0.1", ["1.2.3"], 5, 0)
        made.sent("pacs", "1.2.3", AuditEvent.INSTANCES_SENT)
        made.refused("STRANGER", "127.0.0.1", "association rejected")
        wait_until(lambda: len(server.frames) == 4, 10, "all four")
        wait_until(lambda: not list((tmp_path / "audit").glob("*.xml")), 10, "an empty spool")
        assert not list((tmp_path / "audit").glob("*.part"))
    server.close()
    assert [next(one.iter("EventID")).get("csd-code") for one in server.messages] == [
        "110100", "110104", "110104", "110113",
    ]  # fmt: skip
    head = server.frames[0].split(b" ")
    assert head[0] == b"<85>1"
    assert head[3] == b"allpacs"
    assert head[5] == b"DICOM+RFC3881"


def test_while_the_server_is_away_messages_wait_on_disk_for_their_owner_only(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "audit"
    with trail(folder, port) as made:
        for number in range(3):
            made.sent("pacs", f"1.2.{number}", AuditEvent.INSTANCES_SENT)
    files = list(folder.glob("*.xml"))
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    server = Syslog(port)
    with trail(folder, port):  # the next start
        wait_until(lambda: not list(folder.glob("*.xml")), 20, "an empty spool")
    server.close()
    studies = [next(one.iter("ParticipantObjectIdentification")).get("ParticipantObjectID") for one in server.messages]
    assert studies == ["1.2.0", "1.2.1", "1.2.2"]


def test_a_server_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "another")
    server = Syslog(tls=server_tls(theirs.issue("server"), require_client_certificate=False))
    with trail(tmp_path / "audit", server.port, client_tls(ours.issue("us"))) as made:
        made.started("receive")
        time.sleep(0.5)
    server.close()
    assert server.frames == []
    assert len(list((tmp_path / "audit").glob("*.xml"))) == 1


def test_session_tickets_of_tls_1_3_are_no_reason_to_send_again(tmp_path: Path) -> None:
    """They make the connection readable, though the server has said nothing: whoever waits for that waits in vain."""
    authority, folder, port = Authority(tmp_path), tmp_path / "audit", free_port()
    with trail(folder, port) as made:  # the server is away
        for number in range(20):
            made.sent("pacs", f"1.2.{number}", AuditEvent.INSTANCES_SENT)
    tls = server_tls(authority.issue("server"))
    assert tls().num_tickets > 0
    server = Syslog(port, tls)
    with trail(folder, port, client_tls(authority.issue("us"))) as made:
        wait_until(lambda: not list(folder.glob("*.xml")), 5, "an empty spool")
        made.started("receive")
        wait_until(lambda: len(server.frames) >= 21, 5, "all messages")
    server.close()
    assert server.versions == {"TLSv1.3"}
    assert len(server.frames) == 21


def _leave(folder: Path, study_uid: str, age_s: float = 1000.0) -> Path:
    """Leave a message in a spool, of a process that has ended; return its file."""
    with trail(folder, free_port()) as made:
        made.sent("pacs", study_uid, AuditEvent.INSTANCES_SENT)
    (file,) = folder.glob("*.xml")
    os.utime(file, (time.time() - age_s,) * 2)
    return file


def test_what_another_has_sent_meanwhile_is_passed_over(tmp_path: Path) -> None:
    folder, server = tmp_path / "audit", Syslog()
    _leave(folder, "1.2.3")
    (folder / "0.xml").symlink_to("gone")  # listed, and not there when it is opened
    with trail(folder, server.port):
        wait_until(lambda: len(list(folder.glob("*.xml"))) == 1, 5, "the message behind it is sent")
    server.close()
    assert len(server.frames) == 1


def test_processes_of_one_name_on_one_store_have_a_spool_each(tmp_path: Path) -> None:
    server = Syslog()

    def audit_of(process: str, executor_id: str = "worker-1") -> None:
        settings = load_settings(
            store=StoreSettings(folder=tmp_path),
            audit=AuditSettings(host="127.0.0.1", port=server.port),
            work=WorkSettings(executor_id=executor_id),
        )
        made = make_audit(settings, process)
        assert isinstance(made, SyslogTrail)
        running.append(made)

    running: list[SyslogTrail] = []
    audit_of("receive")
    audit_of("receive")
    audit_of("work")
    audit_of("work", "../other")
    for number in range(10):
        for one in running:
            one.sent("pacs", f"1.2.{number}", AuditEvent.INSTANCES_SENT)
    wait_until(lambda: len(server.frames) >= 44, 10, "all messages")
    host = socket.gethostname()
    assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == [
        f"receive@{host}", f"receive@{host}.2", f"work-.._other@{host}", f"work-worker-1@{host}",
    ]  # fmt: skip
    for one in running:
        one.close()
    server.close()
    assert len(server.frames) == 44


def test_what_ended_processes_have_left_is_sent_by_another(tmp_path: Path) -> None:
    ended, earlier_version, living = tmp_path / "receive@gone", tmp_path / "receive", tmp_path / "work@there"
    _leave(ended, "1.2.1")
    _leave(earlier_version, "1.2.2")
    (earlier_version / "lock").unlink()
    new = _leave(tmp_path / "console@gone", "1.2.3", age_s=1.0)
    _leave(living, "1.2.4")
    server = Syslog()
    with trail(living, free_port()), trail(tmp_path / "receive@here", server.port, spools=tmp_path):
        wait_until(lambda: not ended.exists(), 10, "the spool of the ended process is removed")
        assert list(earlier_version.iterdir()) == []
        assert new.exists()
        assert len(list(living.glob("*.xml"))) == 1
    server.close()
    studies = {next(one.iter("ParticipantObjectIdentification")).get("ParticipantObjectID") for one in server.messages}
    assert studies == {"1.2.1", "1.2.2"}
    assert len(server.frames) == 2


def test_the_oldest_go_when_the_spool_is_full(tmp_path: Path) -> None:
    made = SyslogTrail(tmp_path, "127.0.0.1", free_port(), ae_title="A", source_id="s", most=2)
    for number in range(5):
        made.sent("pacs", f"1.2.{number}", AuditEvent.INSTANCES_SENT)
    wait_until(lambda: len(list(tmp_path.glob("*.xml"))) <= 3, 20, "a bounded spool")
    made.close(within_s=0.0)
    assert b"1.2.4" in max(tmp_path.glob("*.xml")).read_bytes()


@pytest.mark.process
def test_a_real_rsyslog_takes_them_over_mutual_tls(tmp_path: Path) -> None:
    program = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
    if not Path(program).exists() or not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")):
        pytest.skip("no rsyslog with TLS installed")
    authority, port, kept = Authority(tmp_path), free_port(), tmp_path / "kept.log"
    server, us = authority.issue("server"), authority.issue("us")
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        f"""
global(workDirectory="{tmp_path}" maxMessageSize="64k"
  defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{server.trusted}"
  defaultNetstreamDriverCertFile="{server.certificate}" defaultNetstreamDriverKeyFile="{server.key}")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" address="127.0.0.1" port="{port}")
template(name="whole" type="string" string="%app-name% %msgid% %msg%\\n")
*.* action(type="omfile" file="{kept}" template="whole")
"""
    )
    process = subprocess.Popen([program, "-n", "-f", str(config), "-i", str(tmp_path / "pid")])
    try:
        with trail(tmp_path / "audit", port, client_tls(us)) as made:
            made.received("PACS", "127.0.0.1", ["1.2.3"], 5, 0)
            wait_until(lambda: kept.exists() and "AuditMessage" in kept.read_text(), 30, "the message at rsyslog")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    line = kept.read_text()
    assert line.startswith("allpacs DICOM+RFC3881 ")
    assert 'ParticipantObjectID="1.2.3"' in line
