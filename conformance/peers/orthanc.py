"""Orthanc as the hospital's PACS: routes images by Lua, takes results, answers DICOMweb."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from conformance.peers.programs import debian_version
from conformance.peers.server import server

AE_TITLE = "ORTHANC"
_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
_LUA = Path(__file__).with_name("orthanc.lua")


class Orthanc:
    """One Orthanc with a folder of its own. It listens on every address: run it in a network namespace of its own."""

    def __init__(self, folder: Path, *, dicom_port: int, http_port: int, allpacs_port: int) -> None:
        self.folder = folder
        self.dicom_port = dicom_port
        self.base_url = f"http://127.0.0.1:{http_port}"
        self.http = httpx.Client(base_url=self.base_url, timeout=30.0, trust_env=False)
        self._configuration = {
            "Name": "hospital PACS",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": AE_TITLE,
            "DicomPort": dicom_port,
            "DicomCheckCalledAet": False,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"ALLPACS": ["ALLPACS", "127.0.0.1", allpacs_port]},
            "LuaScripts": [str(_LUA)],
            "Plugins": [_DICOMWEB],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Host": f"127.0.0.1:{http_port}"},
            "UnknownSopClassAccepted": True,
        }
        self._running = ExitStack()

    @property
    def version(self) -> str:
        """Version of the program."""
        return debian_version("orthanc")

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(json.dumps(self._configuration))
        command = ["/usr/sbin/Orthanc", str(configuration)]
        self._running.enter_context(self.http)
        self._running.enter_context(server(command, self.folder / "orthanc.log", lambda: self.get("/system")))
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def get(self, path: str, **parameters: str) -> Any:
        """Return the JSON of a GET."""
        answer = self.http.get(path, params=parameters, headers={"Accept": "application/json"})
        answer.raise_for_status()
        return answer.json()

    def files(self, study_uid: str) -> list[bytes]:
        """Return the Part 10 bytes of every instance that the PACS holds of a study."""
        found = self.http.post("/tools/find", json={"Level": "Instance", "Query": {"StudyInstanceUID": study_uid}})
        return [self.http.get(f"/instances/{one}/file").content for one in found.json()]
