"""Settings of the receiver."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from allpacs.dicom.network.listener import Network
from allpacs.receive.capacity import CapacityLimits


@dataclass(frozen=True, slots=True)
class SourceRule:
    """When the studies of one sender are complete.

    Attributes
    ----------
    quiet_s:
        A study is complete when nothing new has come for so long.
    close_on_release:
        A study is complete when its association is released in good order (an aborted one waits for quiet).
    max_age_s:
        A study that never goes quiet is taken as complete so long after its first instance.
    instances_per_s:
        A sender that is faster is held back; None: as fast as it can.
    instance_count_attribute:
        Keyword of the attribute (`allpacs.receive.admit.COUNT_TAGS`) in which it says how many instances a study has:
        with that many it is complete. None: it does not say.
    """

    quiet_s: float = 10.0
    close_on_release: bool = False
    max_age_s: float = 3600.0
    instances_per_s: float | None = None
    instance_count_attribute: str | None = None


@dataclass(frozen=True, slots=True)
class ReceiverConfig:
    """Address, identity and limits of a receiver.

    Attributes
    ----------
    ae_title:
        AE title of the receiver. With `require_called_ae`, associations that call another title are rejected.
    transfer_syntaxes:
        UIDs accepted for every Storage SOP Class.
    host, port:
        Address to listen on; port 0 takes a free port.
    rules:
        By calling AE title; `default_rule` applies to all others.
    allowed_calling:
        AE titles that may associate; empty: any.
    allowed_networks:
        Networks that may connect; empty: any.
    max_associations:
        Largest number of associations at a time; further ones are rejected (PS3.8 section 9.3.4: local limit exceeded).
    max_pdu_bytes:
        Largest P-DATA-TF PDU.
    acse_timeout_s, dimse_timeout_s, network_timeout_s:
        Longest wait for an association message, a DIMSE message, a whole PDU.
    message_timeout_s:
        Longest time from the first PDU of a message to its last.
    max_memory_bytes:
        Unfinished messages of all associations together; one may fill half of it (`allpacs.receive.memory.Memory`).
        Large instances are written to disk and do not count (`allpacs.receive.large`).
    limits:
        When instances are refused with 0xA700.
    shares_port:
        Whether other processes listen on the same port.
    """

    ae_title: str
    transfer_syntaxes: Sequence[str]
    host: str = "127.0.0.1"
    port: int = 0
    rules: Mapping[str, SourceRule] = field(default_factory=dict)
    default_rule: SourceRule = field(default_factory=SourceRule)
    allowed_calling: Collection[str] = ()
    require_called_ae: bool = True
    allowed_networks: Collection[Network] = ()
    max_associations: int = 32
    max_pdu_bytes: int = 131_072
    acse_timeout_s: float = 30.0
    dimse_timeout_s: float = 30.0
    network_timeout_s: float = 60.0
    message_timeout_s: float = 900.0
    max_memory_bytes: int = 2_000_000_000
    limits: CapacityLimits = field(default_factory=CapacityLimits)
    shares_port: bool = False
