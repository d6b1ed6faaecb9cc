"""The key with which notifications are signed as SNS signs them, and its certificate.

A module of its own, because cryptography takes a quarter of a second to import, and a server without topics signs none.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from fourfold.control.envelopes import CERTIFICATE_PATH

_VALID = timedelta(days=3650)


class Signer:
    """An RSA key and its certificate.

    Args:
        key: PEM of the private key.
        certificate: PEM of the self-signed certificate that receivers fetch.
    """

    def __init__(self, key: str, certificate: str) -> None:
        loaded = serialization.load_pem_private_key(key.encode(), None)
        assert isinstance(loaded, rsa.RSAPrivateKey)
        self._key = loaded
        self.certificate = certificate.encode()
        found = x509.load_pem_x509_certificate(self.certificate)
        self.path = f"{CERTIFICATE_PATH}{found.fingerprint(hashes.SHA256()).hex()[:32]}.pem"

    def sign(self, text: str, version: str) -> str:
        """Base64 of the signature of version "1" (SHA-1, SNS's default) or "2" (SHA-256)."""
        digest = hashes.SHA256() if version == "2" else hashes.SHA1()  # noqa: S303 - SNS's form; version 2 is there
        return base64.b64encode(self._key.sign(text.encode(), padding.PKCS1v15(), digest)).decode()


def new_key(now: float) -> tuple[str, str]:
    """PEM of a new private key and of its certificate, which is valid for ten years. Takes a tenth of a second."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Fourfold notifications")])
    start = datetime.fromtimestamp(now, UTC) - timedelta(days=1)  # a receiver's clock may be behind
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + _VALID)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
