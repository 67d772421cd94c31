"""The network on another machine, by the Open Inference Protocol v2: KServe, Triton, OpenVINO Model Server.

What the server is told to run must be this bundle's network: cells in, ``uint8`` or ``float32`` of shape
(n, input_px, input_px, 3), logits out. As with every engine, the golden cells decide whether it is. Tensors travel as
bytes beside the JSON (the protocol's binary tensor data extension), not as text.

Source: Open Inference Protocol, REST; its binary tensor data extension (header Inference-Header-Content-Length).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SecretStr

from allpacs.classify.engine import OutOfDeviceMemory, checked_batch
from allpacs.dicom.web import Answer, exchange
from allpacs.domain.errors import ModelFault
from allpacs.settings.engines import EngineSettings

if TYPE_CHECKING:  # the settings are read by processes that never run a network
    from allpacs.classify.bundle import Bundle

_HEADER_LENGTH = "Inference-Header-Content-Length"
_DTYPES = {"UINT8": np.uint8, "FP32": np.float32}
#: Statuses of a server that is starting, restarting or has too much to do.
_LATER = frozenset({408, 425, 429, 502, 503, 504})
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


class Settings(EngineSettings):
    """A model server."""

    remote_url: str | None = Field(
        None, description="the model server's address, without /v2", examples=["https://gpu.hospital.example"]
    )
    remote_model: str = Field("allpacs", min_length=1, description="the network's name on the model server")
    remote_token: SecretStr | None = Field(
        None, description="sent to the model server as Authorization: Bearer; prefer the environment", examples=["…"]
    )
    remote_timeout_s: float = Field(
        60.0, gt=0, description="longest silence of the model server; one that is away is waited for so long, seconds"
    )

    def attempts(
        self,
        bundle: Bundle,
        *,
        gpu: bool,  # noqa: ARG002 - the server's machine decides
        threads: int | None,  # noqa: ARG002
        cache: Path | None,  # noqa: ARG002
    ) -> Iterator[tuple[str, Callable[[], RemoteEngine]]]:
        """Yield the server; see `EngineSettings.attempts`."""
        url = self.remote_url
        if url is None:
            raise ModelFault("model.engine is remote: set model.remote_url")
        token = None if self.remote_token is None else self.remote_token.get_secret_value()
        yield (
            "remote",
            lambda: RemoteEngine(
                bundle, url=url, model=self.remote_model, bearer_token=token, timeout_s=self.remote_timeout_s
            ),
        )


class RemoteEngine:
    """Asks a model server.

    Parameters
    ----------
    bundle:
        A loaded bundle, whose network the server runs.
    url:
        ``http://`` or ``https://`` address of the server, without ``/v2``.
    model:
        Name of the model on that server.
    bearer_token:
        Sent as ``Authorization: Bearer``.
    timeout_s:
        Longest time that the server has for an answer, and how long one that is away is waited for, seconds.

    Raises
    ------
    ModelFault
        The server does not answer, or its model takes or gives something else.
    """

    name = "remote"

    def __init__(
        self, bundle: Bundle, *, url: str, model: str, bearer_token: str | None = None, timeout_s: float = 60.0
    ) -> None:
        self._side = bundle.input_px
        self._labels = len(bundle.outputs)
        self._timeout_s = timeout_s
        self._headers = {} if bearer_token is None else {"Authorization": f"Bearer {bearer_token}"}
        try:
            self._model_url = f"{httpx.URL(url.rstrip('/'))}/v2/models/{quote(model, safe='')}"
        except httpx.InvalidURL as error:
            raise ModelFault("model.remote_url is no URL") from error
        self._verify = httpx.create_ssl_context()  # once: reading the certificates takes longer than a small batch
        try:
            described = json.loads(self._ask("GET", "").content)
        except (ValueError, RecursionError) as error:
            raise ModelFault("the model server does not describe a model with one input") from error
        self._input, self._dtype = self._tensors(described)

    def logits(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the network's logits, ``float32`` of shape (n, labels); see `Engine.logits`."""
        checked_batch(batch, self._side)
        tensor = np.ascontiguousarray(batch, _DTYPES[self._dtype]).tobytes()
        request = {
            "inputs": [
                {
                    "name": self._input,
                    "shape": list(batch.shape),
                    "datatype": self._dtype,
                    "parameters": {"binary_data_size": len(tensor)},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
        header = json.dumps(request).encode()
        answer = self._ask(
            "POST",
            "/infer",
            content=header + tensor,
            headers={_HEADER_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"},
        )
        try:
            return _output(answer).reshape(len(batch), self._labels)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
            raise ModelFault("the model server's answer is not one logit a label and cell") from error

    def _tensors(self, described: Any) -> tuple[str, str]:
        """Return name and data type of the model's one input."""
        try:
            (one,) = described["inputs"]
            name, dtype = str(one["name"]), str(one["datatype"])
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFault("the model server does not describe a model with one input") from error
        if dtype not in _DTYPES:
            raise ModelFault(f"the model server's model takes {dtype[:16]}, not UINT8 or FP32")
        return name, dtype

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, content: bytes = b"") -> Answer:
        """Return a good answer; a server that is away is asked again for a while."""
        until, wait_s = time.monotonic() + self._timeout_s, _FIRST_WAIT_S
        cause: Exception | None = None
        while True:
            try:
                answer = exchange(
                    method,
                    self._model_url + path,
                    timeout_s=self._timeout_s,
                    headers={**self._headers, **(headers or {})},
                    verify=self._verify,
                    trust_env=True,
                    content=content,
                )
            except httpx.HTTPError as error:
                failure, cause = f"the model server does not answer ({type(error).__name__})", error
            else:
                if answer.status == HTTPStatus.OK:
                    if answer.whole:
                        return answer
                    raise ModelFault("the model server's answer is larger than any batch's: look at model.remote_url")
                if answer.status == HTTPStatus.INSUFFICIENT_STORAGE or _out_of_memory(answer):
                    raise OutOfDeviceMemory("the model server has no memory for this batch")
                failure = f"the model server answered {answer.status}"
                if answer.status not in _LATER:
                    raise ModelFault(failure)
            if time.monotonic() + wait_s > until:
                raise ModelFault(f"{failure} for {self._timeout_s:.0f} s: look at model.remote_url") from cause
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _out_of_memory(answer: Answer) -> bool:
    """Whether a failure is that of a device without memory, as Triton's and KServe's back ends word it."""
    said = answer.content[:2000].decode("latin-1").lower()
    return "out of memory" in said or "resource exhausted" in said


def _output(answer: Answer) -> NDArray[np.float32]:
    """Return the first output of an answer, whether it came as bytes or as text; a copy."""
    length = answer.headers.get(_HEADER_LENGTH)
    header = answer.content if length is None else answer.content[: int(length)]
    (output,) = json.loads(header)["outputs"]
    if "data" in output:
        return np.array(output["data"], np.float32)
    if output["datatype"] != "FP32":
        raise ValueError(output["datatype"])
    size = int(output["parameters"]["binary_data_size"])
    return np.frombuffer(answer.content, "<f4", count=size // 4, offset=len(header)).copy()
