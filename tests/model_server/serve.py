"""A KServe model server with a bundle's network on OpenVINO: ``serve.py NETWORK.xml HTTP_PORT``.

Run by the Python of `make model-server`'s environment, which has KServe and OpenVINO and nothing of allpacs.
"""

from __future__ import annotations

import sys
from typing import Any

import openvino
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Network(Model):  # type: ignore[misc]
    """Cells to logits."""

    def __init__(self, xml: str) -> None:
        super().__init__("allpacs")
        self._compiled = openvino.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        """Return the one input, as the protocol describes it."""
        shape = [-1, *(dimension.get_length() for dimension in list(self._compiled.inputs[0].partial_shape)[1:])]
        return [{"name": "cells", "datatype": "UINT8", "shape": shape}]

    async def get_output_types(self) -> list[dict[str, Any]]:
        """Return the one output."""
        return [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}]

    def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        """Run the network on the request's cells."""
        logits = self._compiled(payload.inputs[0].as_numpy())[0]
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits.copy(), binary_data=True)
        return InferResponse(response_id=payload.id or "0", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[2]), enable_grpc=False, workers=1).start([Network(sys.argv[1])])
