"""What is counted and timed, under its Prometheus names; `allpacs.app.health` serves it.

Labels are statuses, states, stages and configured destinations: their number is bounded, and none is about a patient.
What the index knows (queues, deliveries, their ages) is asked of it at each scrape instead: `allpacs.app.health`.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_FAST = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SLOW = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)

RECEIVED = Counter("allpacs_instances_received", "Instances answered with 0x0000.", ["outcome"])
RECEIVED_BYTES = Counter("allpacs_received_bytes", "Bytes of the data sets of stored instances.")
REFUSED = Counter("allpacs_instances_refused", "Instances answered otherwise, by C-STORE status.", ["status"])
STORE_SECONDS = Histogram("allpacs_store_seconds", "From a whole message to its answer.", buckets=_FAST)
ASSOCIATIONS = Counter("allpacs_associations", "Associations by how they ended.", ["ended"])
ASSOCIATIONS_OPEN = Gauge("allpacs_associations_open", "Associations now.")
HELD_BACK_SECONDS = Counter("allpacs_held_back_seconds", "Time that senders were held back by their rate.")
STAGE_SECONDS = Histogram("allpacs_stage_seconds", "One step of a study, by its stage.", ["stage"], buckets=_SLOW)
MODEL_SECONDS = Histogram("allpacs_model_seconds", "One run of the network.", buckets=_FAST)
BATCH_CELLS = Histogram(
    "allpacs_batch_cells", "Cells in one run of the network.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
CELLS_WAITING = Gauge("allpacs_cells_waiting", "Cells that wait for a run of the network.")
CELL_WAIT_SECONDS = Histogram(
    "allpacs_cell_wait_seconds", "How long the oldest cell of a run had waited for it.", buckets=_SLOW
)
CELLS = Counter("allpacs_cells", "Cells that the model has read, by outcome.", ["outcome"])
ATTEMPTS = Counter(
    "allpacs_delivery_attempts", "Attempts at a delivery by what came of them.", ["destination", "state"]
)
