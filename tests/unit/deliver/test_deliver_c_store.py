from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MediaStorageDirectoryStorage,
)
from pynetdicom import AllStoragePresentationContexts

from allpacs.deliver.association import Verdict, judge
from allpacs.deliver.c_store import CStoreDestination, echo, send_files
from allpacs.demo.archive import Archive
from allpacs.domain.errors import ConfigFault, DeliveryRejected, DeliveryUnavailable
from allpacs.domain.identity import IMPLEMENTATION_CLASS_UID
from conformance.support.network import free_port
from support.deliver_samples import dicom_object, html_artefact, leaks, scp, sr_artefact, tcp_server, write_file

WAIT_S = 10.0


def to(port: int, timeout_s: float = WAIT_S) -> CStoreDestination:
    return CStoreDestination("127.0.0.1", port, "PACS", "ALLPACS", timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (0x0000, Verdict.STORED),
        (0xB000, Verdict.WARNING),
        (0xB006, Verdict.WARNING),
        (0xB007, Verdict.WARNING),
        (0x0107, Verdict.WARNING),
        (0x0111, Verdict.WARNING),
        (0xA700, Verdict.LATER),
        (0xA7FF, Verdict.LATER),
        (0x0110, Verdict.LATER),
        (0x0213, Verdict.LATER),
        (0xFE00, Verdict.LATER),
        (0xA900, Verdict.NEVER),
        (0xA9FF, Verdict.NEVER),
        (0xC000, Verdict.NEVER),
        (0xCFFF, Verdict.NEVER),
        (0x0117, Verdict.NEVER),
        (0x0122, Verdict.NEVER),
        (0x0124, Verdict.NEVER),
        (0x0210, Verdict.NEVER),
        (0x0211, Verdict.NEVER),
        (0x0212, Verdict.NEVER),
        (0x1234, Verdict.NEVER),
        (0xFF00, Verdict.NEVER),
    ],
)
def test_every_status_is_judged(status, verdict):
    assert judge(status) is verdict


@pytest.mark.parametrize(
    ("status", "warning"),
    [
        (0x0000, None),
        (0xB000, "0xB000 Coercion of Data Elements"),
        (0xB006, "0xB006 Element Discarded"),
        (0xB007, "0xB007 Data Set Does Not Match SOP Class"),
        (0x0111, "0x0111 Duplication SOP Instance"),
    ],
)
def test_success_with_or_without_warning(status, warning):
    with scp(lambda _event: status) as port:
        receipt = to(port).deliver([sr_artefact()])
    assert receipt.detail == f"0x{status:04X}"
    assert receipt.warning == warning


@pytest.mark.parametrize(
    ("status", "fault"),
    [(0xA700, DeliveryUnavailable), (0xA900, DeliveryRejected), (0xC000, DeliveryRejected), (0x0122, DeliveryRejected),
     (0x0124, DeliveryRejected), (0x0117, DeliveryRejected), (0x0110, DeliveryUnavailable)],
)  # fmt: skip
def test_failure_status(status, fault):
    def refuse(event):
        answer = Dataset()
        answer.Status = status
        answer.ErrorComment = "Zebedee MRN-4711 unknown"
        return answer

    with scp(refuse) as port, pytest.raises(fault, match=f"0x{status:04X}") as caught:
        to(port).deliver([sr_artefact()])
    assert not leaks(str(caught.value))


def test_one_association_with_exactly_the_contexts_needed():
    seen = []

    def store(event):
        requested = {cx.abstract_syntax for cx in event.assoc.requestor.requested_contexts}
        seen.append((event.assoc, requested, event.assoc.requestor.implementation_class_uid))
        return 0x0000

    with scp(store) as port:
        receipt = to(port).deliver([sr_artefact("a"), html_artefact(), sr_artefact("b")])
    assert receipt.detail == "0x0000, 0x0000"
    assert len(seen) == 2
    assert seen[0][0] is seen[1][0]
    assert seen[0][1] == {Comprehensive3DSRStorage, ComprehensiveSRStorage}
    assert seen[0][2] == IMPLEMENTATION_CLASS_UID


def test_the_object_arrives_byte_for_byte():
    arrived = []

    def store(event):
        arrived.append(event.request.DataSet.getvalue())
        return 0x0000

    artefact = sr_artefact()
    with scp(store) as port:
        to(port).deliver([artefact])
    assert artefact.content.endswith(arrived[0])
    assert "Żółć".encode() in arrived[0]


def test_a_peer_that_knows_only_the_default_transfer_syntax_gets_it():
    arrived = []

    def store(event):
        arrived.append(event.dataset.PatientName)
        return 0x0000

    with scp(store, contexts=((Comprehensive3DSRStorage, (ImplicitVRLittleEndian,)),)) as port:
        to(port).deliver([sr_artefact()])
    assert arrived == ["Zebedee^Żółć"]


def test_one_rejected_object_does_not_hold_up_the_others():
    received = []

    def store(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return 0xC000 if len(received) == 1 else 0x0000

    with scp(store) as port, pytest.raises(DeliveryRejected) as caught:
        to(port).deliver([sr_artefact("a"), sr_artefact("b"), sr_artefact("c", sop_class=ComprehensiveSRStorage)])
    assert received == [sr_artefact("a").uid, sr_artefact("b").uid]
    assert sr_artefact("a").uid in str(caught.value)
    assert f"{sr_artefact('c').uid}: the peer accepts no presentation context" in str(caught.value)
    assert sr_artefact("b").uid not in str(caught.value)


def test_out_of_resources_stops_and_is_tried_again():
    received = []

    def store(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return 0xA700

    with scp(store) as port, pytest.raises(DeliveryUnavailable, match="Out of Resources"):
        to(port).deliver([sr_artefact("a"), sr_artefact("b")])
    assert len(received) == 1


def test_nothing_for_this_destination():
    assert to(free_port()).deliver([html_artefact()]).detail == "nothing sent"


def test_an_artefact_that_is_no_dicom_is_rejected_before_any_connection():
    with pytest.raises(DeliveryRejected, match="not a DICOM file"):
        to(free_port()).deliver([replace(sr_artefact(), content=b"Zebedee")])


def test_no_context_accepted_is_rejected_with_what_to_do():
    with (
        scp(contexts=(("1.2.840.10008.1.1", (ImplicitVRLittleEndian,)),)) as port,
        pytest.raises(DeliveryRejected, match="Comprehensive SR Storage; enable it"),
    ):
        to(port).deliver([sr_artefact()])


def test_connection_refused():
    with pytest.raises(DeliveryUnavailable, match="no connection"):
        to(free_port()).deliver([sr_artefact()])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 70, "a..b"])
def test_unknown_host(host):
    destination = CStoreDestination(host, 104, "PACS", "ALLPACS", timeout_s=1)
    with pytest.raises(DeliveryUnavailable, match="check host and port"):
        destination.deliver([sr_artefact()])


@pytest.mark.parametrize(
    ("host", "called_ae"), [("", "PACS"), ("h", ""), ("h", "A" * 17), ("h", "Łódź"), ("h", "A\\B")]
)
def test_a_wrong_address_is_the_operators_fault(host, called_ae):
    with pytest.raises(ConfigFault):
        CStoreDestination(host, 104, called_ae, "ALLPACS")


def _reject(result: int, source: int, reason: int):
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(bytes([0x03, 0, 0, 0, 0, 4, 0, result, source, reason]))
        connection.recv(65536)  # the requestor closes

    return talk


@pytest.mark.parametrize(
    ("result", "source", "reason", "fault", "text"),
    [
        (1, 1, 7, DeliveryRejected, "(?i)called AE title not recognised"),
        (1, 1, 3, DeliveryRejected, "(?i)calling AE title not recognised"),
        (2, 1, 1, DeliveryUnavailable, "No reason given"),
        (2, 3, 1, DeliveryUnavailable, "(?i)temporary congestion"),
        (1, 3, 2, DeliveryUnavailable, "(?i)local limit exceeded"),
    ],
)
def test_association_rejected(result, source, reason, fault, text):
    with tcp_server(_reject(result, source, reason)) as port, pytest.raises(fault, match=text):
        to(port).deliver([sr_artefact()])


def test_association_rejected_by_a_real_peer_for_its_ae_title():
    with scp(require_called_aet=True) as port, pytest.raises(DeliveryRejected, match="check both AE titles"):
        CStoreDestination("127.0.0.1", port, "OTHER", "ALLPACS", timeout_s=WAIT_S).deliver([sr_artefact()])


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x07\0\0\0\0\x04\0\0\0\0"])
def test_a_peer_that_hangs_up_or_talks_nonsense(answer):
    def talk(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    with tcp_server(talk) as port, pytest.raises(DeliveryUnavailable, match="time-out or abort"):
        to(port, 2).deliver([sr_artefact()])


def test_a_peer_that_never_answers_the_association_request():
    done = threading.Event()
    started = time.monotonic()
    with tcp_server(lambda _connection: done.wait(10)) as port, pytest.raises(DeliveryUnavailable, match="time-out"):
        to(port, 0.5).deliver([sr_artefact()])
    done.set()
    assert time.monotonic() - started < 5


def test_a_peer_that_never_answers_the_store_request():
    done = threading.Event()

    def hang(event):
        done.wait(10)
        return 0x0000

    with scp(hang) as port:
        started = time.monotonic()
        with pytest.raises(DeliveryUnavailable, match="whether it was stored is unknown"):
            to(port, 0.5).deliver([sr_artefact()])
        assert time.monotonic() - started < 5
        done.set()


def test_abort_in_the_middle_of_an_association():
    received = []

    def store(event):
        received.append(event.request.AffectedSOPInstanceUID)
        if len(received) == 2:
            event.assoc.abort()
        return 0x0000

    with scp(store) as port:
        started = time.monotonic()
        with pytest.raises(DeliveryUnavailable, match="abort"):
            to(port).deliver([sr_artefact("a"), sr_artefact("b"), sr_artefact("c")])
        assert time.monotonic() - started < WAIT_S / 2  # the abort was noticed, not waited out
    assert len(received) == 2


def test_an_answer_lost_after_the_archive_stored_it_leaves_one_object(tmp_path):
    class Forgetful(Archive):
        def _take(self, event):
            status = super()._take(event)
            if self.instances[0].times_received == 1:
                event.assoc.abort()
            return status

    with Forgetful(tmp_path, "PACS") as archive:
        with pytest.raises(DeliveryUnavailable):
            to(archive.port).deliver([sr_artefact()])
        assert to(archive.port).deliver([sr_artefact()]).detail == "0x0000"
        (kept,) = archive.instances
    assert kept.times_received == 2
    assert dcmread(kept.path).SOPInstanceUID == sr_artefact().uid


def test_echo(tmp_path):
    with Archive(tmp_path, "PACS") as archive:
        assert echo("127.0.0.1", archive.port, "PACS", "ALLPACS") == (
            f"PACS@127.0.0.1:{archive.port} answered C-ECHO: 0x0000"
        )
        assert to(archive.port).check().endswith("0x0000")


def test_echo_says_what_is_wrong():
    with pytest.raises(DeliveryUnavailable, match="no connection"):
        to(free_port()).check()
    with tcp_server(_reject(1, 1, 7)) as port, pytest.raises(DeliveryUnavailable, match=r"(?i)called AE title"):
        to(port).check()
    with (
        scp(contexts=((Comprehensive3DSRStorage, (ExplicitVRLittleEndian,)),)) as port,
        pytest.raises(DeliveryUnavailable, match="Verification"),
    ):
        to(port).check()


def test_echo_without_success_is_unavailable():
    with scp(on_echo=lambda _event: 0x0122) as port, pytest.raises(DeliveryUnavailable, match="0x0122"):
        to(port).check()
    done = threading.Event()
    with scp(on_echo=lambda _event: done.wait(5) and 0) as port, pytest.raises(DeliveryUnavailable, match="no answer"):
        to(port, 0.4).check()
    done.set()


def test_files_of_every_kind_are_sent_in_their_own_transfer_syntax(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    paths = [
        write_file(source, dicom_object(f"{n}", "1.2.840.10008.5.1.4.1.1.77.1.2", syntax))
        for n, syntax in enumerate([*syntaxes, JPEGBaseline8Bit])
    ]
    told = []
    with Archive(tmp_path / "kept", "PACS") as archive:
        sent = send_files(paths, "127.0.0.1", archive.port, "PACS", "ALLPACS", told.append)
        kept = archive.wait_for("1.2.840.10008.5.1.4.1.1.77.1.2", 5, count=5)
    assert [(file.path, file.status, file.note) for file in sent] == [(path, 0x0000, "0x0000") for path in paths]
    assert all(file.stored for file in sent)
    assert told == sent
    assert [dcmread(k.path).file_meta.TransferSyntaxUID for k in kept] == [*syntaxes, JPEGBaseline8Bit]


def test_what_cannot_be_sent_is_listed_and_the_rest_is_sent(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "notes.txt").write_text("Zebedee")
    (source / "empty.dcm").touch()
    good = write_file(source, dicom_object("good"))
    cut = write_file(source, dicom_object("cut"))
    cut.write_bytes(cut.read_bytes()[:-3])
    without_uid = dicom_object("x")
    whole = write_file(source, without_uid)
    (source / "no-uid.dcm").write_bytes(whole.read_bytes().replace(without_uid.SOPInstanceUID.encode(), b"\0" * 44))
    whole.unlink()
    with Archive(tmp_path / "kept", "PACS") as archive:
        sent = send_files([*source.iterdir(), tmp_path / "gone"], "127.0.0.1", archive.port, "PACS", "ALLPACS")
    by_name = {file.path.name: file for file in sent}
    assert len(sent) == 6
    assert by_name[good.name].stored
    assert by_name["notes.txt"].note == "not a DICOM file"
    assert not any(file.stored for name, file in by_name.items() if name not in (good.name, cut.name))
    assert not any(leaks(file.note) for file in sent)


def test_statuses_are_told_for_each_file(tmp_path):
    paths = [write_file(tmp_path, dicom_object(name)) for name in "abcd"]
    statuses = iter([0x0000, 0xC000, 0xB006, 0x0111])
    with scp(lambda _event: next(statuses)) as port:
        sent = send_files(paths, "127.0.0.1", port, "PACS", "ALLPACS")
    told = [(file.status, file.stored, file.warned) for file in sent]
    assert told == [(0x0000, True, False), (0xC000, False, False), (0xB006, True, True), (0x0111, False, False)]


def test_more_sop_classes_than_one_association_has_contexts(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:100]
    paths = [write_file(source, dicom_object(uid, uid)) for uid in classes]
    with Archive(tmp_path / "kept", "PACS") as archive:
        sent = send_files(paths, "127.0.0.1", archive.port, "PACS", "ALLPACS")
        assert len(archive.instances) == 100
    assert all(file.stored for file in sent)


def test_files_after_a_lost_association_are_told_as_not_sent(tmp_path):
    paths = [write_file(tmp_path, dicom_object(name)) for name in "abc"]
    received = []

    def store(event):
        received.append(1)
        if len(received) == 2:
            event.assoc.abort()
        return 0x0000

    with scp(store) as port:
        sent = send_files(paths, "127.0.0.1", port, "PACS", "ALLPACS", timeout_s=5)
    assert [file.status for file in sent] == [0x0000, None, None]
    assert all("abort" in file.note for file in sent[1:])


def test_no_association_at_all_is_an_error(tmp_path):
    paths = [write_file(tmp_path, dicom_object("a"))]
    with pytest.raises(DeliveryUnavailable):
        send_files(paths, "127.0.0.1", free_port(), "PACS", "ALLPACS")


def test_a_dicomdir_is_no_storage_object(tmp_path):
    path = write_file(tmp_path, dicom_object("dir", MediaStorageDirectoryStorage))
    (sent,) = send_files([path], "127.0.0.1", free_port(), "PACS", "ALLPACS")
    assert sent.note.startswith("no storage object")
