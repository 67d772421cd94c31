"""Certificate authorities of a test, and files of what they issue."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import trustme

from allpacs.dicom.tls import TlsFiles


class Authority:
    """An authority whose certificates are written to a folder."""

    def __init__(self, folder: Path, name: str = "hospital") -> None:
        self._ca = trustme.CA(organization_name=name)
        self._folder = folder / name
        self._folder.mkdir()
        self.trusted = self._folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.trusted)

    def issue(self, who: str, *hosts: str, not_after: dt.datetime | None = None) -> TlsFiles:
        """Write a certificate for the hosts (127.0.0.1 where none is named), over one of that name; trust ourselves."""
        issued = self._ca.issue_cert(*(hosts or ("127.0.0.1",)), not_after=not_after)
        certificate, key = self._folder / f"{who}.pem", self._folder / f"{who}.key"
        for path, content in (
            (certificate, b"".join(blob.bytes() for blob in issued.cert_chain_pems)),
            (key, issued.private_key_pem.bytes()),
        ):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.replace(path)
        return TlsFiles(certificate, key, trusted=self.trusted)

    def issue_expired(self, who: str) -> TlsFiles:
        """Write a certificate that expired yesterday."""
        return self.issue(who, not_after=dt.datetime.now(dt.UTC) - dt.timedelta(days=1))
