"""Certificates and authorities for tests of TLS."""

import datetime as dt
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["Certificate", "make_certificate"]


@dataclass
class Certificate:
    key: ec.EllipticCurvePrivateKey
    x509: x509.Certificate
    path: Path  # the certificate and, behind it, its key

    def pem(self) -> str:
        return self.x509.public_bytes(serialization.Encoding.PEM).decode()

    def key_pem(self) -> str:
        return _pem(self.key).decode()

    def write_key(self, path: Path, password: bytes) -> Path:
        encryption = serialization.BestAvailableEncryption(password)
        path.write_bytes(
            self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return path


def make_certificate(
    path: Path,
    name: str,
    issuer: Certificate | None = None,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    minutes: int = 60,
) -> Certificate:
    """A certificate that is valid for so many minutes; with a negative number it has expired."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.x509.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(minutes=minutes))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer.key if issuer else key).public_key()),
            critical=False,
        )
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + _pem(key))
    return Certificate(key, certificate, path)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())
