"""An HTTPS server on loopback, with a certificate of a made-up authority."""

from __future__ import annotations

import contextlib
import datetime as dt
import http.server
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b'{"id":"b_1"}')

    def log_message(self, *_: object) -> None:
        pass


def _certificate(name: str, serial: int, key: ec.EllipticCurvePrivateKey, issuer: x509.Name | None):
    now = dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = dt.timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject).serial_number(serial)
    made = made.public_key(key.public_key()).not_valid_before(now - day).not_valid_after(now + day)
    if issuer is None:
        return made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    with contextlib.suppress(ValueError):
        address = x509.IPAddress(ipaddress.ip_address(name))
        return made.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    return made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)


def certify(folder: Path, name: str) -> tuple[Path, Path]:
    """Files for a server of that name or address: the authority's certificate, and its own with its key."""
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate(f"Test authority {token_hex(4)}", 1, authority, None).sign(authority, hashes.SHA256())
    leaf = _certificate(name, 2, own, root.subject).sign(authority, hashes.SHA256())
    key = own.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "authority.pem").write_bytes(root.public_bytes(_PEM))
    (folder / "server.pem").write_bytes(leaf.public_bytes(_PEM) + key)
    return folder / "authority.pem", folder / "server.pem"


@contextlib.contextmanager
def tls_server(
    folder: Path, name: str = "localhost", asked: list[str | None] | None = None
) -> Iterator[tuple[int, Path]]:
    """Its port, and the authority's certificate; *name* is whom the server's own is for. *asked* collects the names
    that clients ask for (SNI).
    """
    authority, own = certify(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own)
    if asked is not None:
        context.sni_callback = lambda _socket, host, _context: asked.append(host)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are the point
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], authority
        finally:
            server.shutdown()
            thread.join()
