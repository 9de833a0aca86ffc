"""TLS towards a log server. Imported by name, but `ssl` itself only when somebody asks for it: it is 3 MB.

tls: `name` (of the server), `verify`, `ca`, `cert`, `key` (paths, "" for none).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import ssl
    from typing import Any


def context(tls: dict[str, Any]) -> ssl.SSLContext:
    """As go-connections' client configuration: TLS 1.2 at least, and the given authority beside the system's. Raises
    OSError (ssl.SSLError is one)."""
    import ssl

    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls["verify"]:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_default_certs()
        if tls["ca"]:
            made.load_verify_locations(tls["ca"])
    if tls["cert"]:
        made.load_cert_chain(tls["cert"], tls["key"] or None)
    return made


def secured(sock: socket.socket, server: dict[str, Any]) -> socket.socket:
    """The socket under TLS, its handshake still to be made."""
    tls = server["tls"]
    return context(tls).wrap_socket(sock, server_hostname=tls["name"], do_handshake_on_connect=False)
