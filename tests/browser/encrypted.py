"""HTTPS on localhost, with a certificate of its own."""

from contextlib import contextmanager
import datetime as dt
from socketserver import ThreadingMixIn
import ssl
import threading
from wsgiref.simple_server import make_server
from wsgiref.simple_server import WSGIRequestHandler
from wsgiref.simple_server import WSGIServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


class _Server(ThreadingMixIn, WSGIServer):
    def handle_error(self, request, address):
        """Say nothing of connections that the browser opened and left."""


class _Handler(WSGIRequestHandler):
    def log_message(self, *args):
        """Say nothing of each request."""


@contextmanager
def serving_encrypted(app, folder):
    """Serve a WSGI application by https; yields the port."""
    server = make_server('127.0.0.1', 0, app, _Server, _Handler)
    # What wsgiref asks for the scheme.
    server.base_environ['HTTPS'] = 'on'
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(folder))
    server.socket = context.wrap_socket(
        server.socket,
        server_side=True,
        # In the request's thread: a browser may open more than it uses.
        do_handshake_on_connect=False,
    )
    thread = threading.Thread(target=server.serve_forever, args=(.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _certificate(folder):
    """Write a key and a certificate for localhost; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, 'localhost')]
    )
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName('localhost')]), False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / 'localhost.pem'
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
