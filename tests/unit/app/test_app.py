"""Settings become live parts: what is written in the file holds on the socket."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from allpacs.app import make_destinations, make_receiver, open_store, worker
from allpacs.classify.bundle import load_bundle
from allpacs.domain.errors import ConfigFault, DeliveryUnavailable, ModelFault
from allpacs.settings import SHIPPED_BUNDLE, Settings, load_settings
from conformance.support.certificates import Authority
from conformance.support.network import free_port


def configured(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "allpacs.toml"
    file.write_text(f'[store]\nfolder = "{tmp_path}/store"\n{text}')
    return load_settings(file)


def test_tls_of_the_settings_is_used_by_receiver_and_destinations(tmp_path: Path) -> None:
    hospital = Authority(tmp_path)
    own, pacs, port = hospital.issue("allpacs"), hospital.issue("pacs"), free_port()
    settings = configured(
        tmp_path,
        f"""
        [receive]
        port = {port}
        [receive.tls]
        certificate = "{own.certificate}"
        key = "{own.key}"
        trusted = "{hospital.trusted}"
        [destinations.known]
        kind = "c_store"
        host = "127.0.0.1"
        port = {port}
        called_ae = "ALLPACS"
        tls = {{ certificate = "{pacs.certificate}", key = "{pacs.key}", trusted = "{hospital.trusted}" }}
        [destinations.plain]
        kind = "c_store"
        host = "127.0.0.1"
        port = {port}
        called_ae = "ALLPACS"
        timeout_s = 5
        """,
    )
    store = open_store(settings)
    receiver = make_receiver(settings, store)
    receiver.start()
    try:
        destinations = make_destinations(settings)
        assert destinations["known"].check().endswith("0x0000")
        with pytest.raises(DeliveryUnavailable):
            destinations["plain"].check()
    finally:
        receiver.stop(grace_s=0.0)
        store.close()


def test_addresses_of_the_settings_are_those_that_may_connect(tmp_path: Path) -> None:
    port = free_port()
    settings = configured(
        tmp_path,
        f"""
        [receive]
        port = {port}
        allowed_networks = ["10.1.0.0/16"]
        [destinations.pacs]
        kind = "c_store"
        host = "127.0.0.1"
        port = {port}
        called_ae = "ALLPACS"
        timeout_s = 5
        """,
    )
    store = open_store(settings)
    receiver = make_receiver(settings, store)
    receiver.start()
    try:
        with pytest.raises(DeliveryUnavailable):
            make_destinations(settings)["pacs"].check()
    finally:
        receiver.stop(grace_s=0.0)
        store.close()


def test_tls_that_cannot_be_used_names_its_section(tmp_path: Path) -> None:
    settings = configured(
        tmp_path,
        """
        [receive.tls]
        certificate = "nowhere.pem"
        trusted = "nowhere-ca.pem"
        [destinations.ehr]
        kind = "fhir"
        base_url = "https://ehr.hospital.example/r4"
        tls = { trusted = "nowhere-ca.pem" }
        """,
    )
    store = open_store(settings)
    with pytest.raises(ConfigFault, match=r"receive\.tls: nowhere"):
        make_receiver(settings, store)
    with pytest.raises(ConfigFault, match=r"destinations\.ehr: tls: nowhere-ca\.pem"):
        make_destinations(settings)
    store.close()


def test_tls_of_a_plain_http_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault, match="not https"):
        configured(
            tmp_path,
            '[destinations.ehr]\nkind = "fhir"\nbase_url = "http://ehr/r4"\ntls = { trusted = "ca.pem" }\n',
        )


def test_a_worker_asks_once_for_an_explanation_before_a_report_waits_for_one() -> None:
    asked: list[tuple[tuple[int, ...], object]] = []

    def explain(crops: NDArray[np.uint8], toward: object) -> NDArray[np.float32]:
        asked.append((crops.shape, toward))
        return np.zeros(crops.shape[:3], np.float32)

    bundle = load_bundle(SHIPPED_BUNDLE)
    worker._explain_once(explain, bundle)
    assert asked == [((1, bundle.input_px, bundle.input_px, 3), [0])]


def test_a_model_that_cannot_explain_still_works() -> None:
    def explain(*_: object) -> object:
        raise ModelFault("no gradients")

    with capture_logs() as lines:
        worker._explain_once(explain, load_bundle(SHIPPED_BUNDLE))
    assert [(line["event"], line["reason"]) for line in lines] == [("model_cannot_explain", "no gradients")]
