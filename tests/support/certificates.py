"""Certificates for tests: an authority, what it signs for servers and clients, and signed registry tokens."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import secrets
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID


class Authority:
    """Signs with a key of its own; its files lie in a folder. crt: its certificate."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._signed(self._name, self._key.public_key(), None, ca=True)
        self.crt = directory / f"{name}.crt"
        self.crt.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, address: str = "") -> tuple[Path, Path]:
        """(certificate, key) for a client, or for a server at an address."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(subject, key.public_key(), address or None, ca=False)
        crt, pem = self._directory / f"{name}.cert", self._directory / f"{name}.key"
        crt.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        kinds = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem.write_bytes(key.private_bytes(*kinds))
        return crt, pem

    def token(self, issuer: str, audience: str, user: str, scopes: list[str]) -> str:
        """A distribution bearer token (spec/auth/jwt.md) that allows what the scopes ask for."""
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        chain = [base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()]
        claims = {
            "iss": issuer, "sub": user, "aud": audience, "exp": now + 300, "nbf": now - 10, "iat": now - 10,
            "jti": secrets.token_hex(8), "access": access,
        }  # fmt: skip
        parts = [_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "RS256", "x5c": chain}, claims)]
        signature = self._key.sign(".".join(parts).encode(), padding.PKCS1v15(), hashes.SHA256())
        return ".".join([*parts, _encoded(signature)])

    def _signed(self, subject: x509.Name, key: rsa.RSAPublicKey, address: str | None, *, ca: bool) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )  # fmt: skip
        if address is not None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
