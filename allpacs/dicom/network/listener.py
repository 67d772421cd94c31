"""The listening socket: who may connect, and TLS, before any byte of DICOM is looked at.

A connection's handshake runs in a thread of its own and for a limited time: a peer that is silent, or sends one byte a
minute, holds up nobody else.
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import ssl
from collections.abc import Callable, Collection
from typing import Any

import structlog
from pynetdicom.transport import ThreadedAssociationServer

from allpacs.dicom.tls import Tls

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_log = structlog.get_logger("allpacs.dicom.network")


class Listener(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts connections for a Storage SCP.

    Attributes
    ----------
    tls:
        Asked for the settings of each connection; None: no TLS.
    allowed_networks:
        Whose connections are taken; empty: anybody's.
    handshake_timeout_s:
        Longest time for each answer of the peer while TLS is agreed on.
    on_refused:
        Called with address and reason of each refused peer.
    """

    tls: Tls | None = None
    allowed_networks: Collection[Network] = ()
    handshake_timeout_s: float = 30.0
    on_refused: Callable[[str, str], None] | None = None

    def verify_request(self, _request: Any, client_address: Any) -> bool:
        """Return whether the peer's address is one of those allowed."""
        if not self.allowed_networks:
            return True
        address = ipaddress.ip_address(client_address[0])
        mapped = getattr(address, "ipv4_mapped", None)  # an IPv4 peer on an IPv6 socket
        allowed = any((mapped or address) in network for network in self.allowed_networks)
        if not allowed:
            self._refuse("connection_refused", str(address), "not in receive.allowed_networks")
        return allowed

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Agree on TLS where there is any, then hand the connection over to an association (in its own thread)."""
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is not None:
            request.settimeout(self.handshake_timeout_s)
            try:
                request = self.tls().wrap_socket(request, server_side=True)
            except OSError as failed:
                # OpenSSL's reason, for example CERTIFICATE_VERIFY_FAILED; a plain connection is WRONG_VERSION_NUMBER.
                reason = failed.reason if isinstance(failed, ssl.SSLError) else None
                self._refuse("tls_refused", client_address[0], reason or type(failed).__name__)
                self.shutdown_request(request)
                return
            request.settimeout(None)
        super().finish_request(request, client_address)

    def _refuse(self, event: str, address: str, reason: str) -> None:
        _log.warning(event, address=address, reason=reason)
        if self.on_refused is not None:
            self.on_refused(address, reason)

    def shutdown(self) -> None:
        """Stop accepting and close the socket."""
        # Not the base class's: that also removes us from the list of servers that only `AE.start_server` fills.
        socketserver.BaseServer.shutdown(self)
        self.server_close()


class SharedListener(Listener):
    """Listens on a port together with other processes: the kernel gives each connection to one of them.

    Source: Linux socket(7), SO_REUSEPORT.
    """

    def server_bind(self) -> None:
        """Bind the socket, letting others of this user do so too."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
