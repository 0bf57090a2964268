import ssl
from pathlib import Path

import pytest

from plinth.settings.tls import client_context
from tests.support.certificates import Certificate, make_certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls") / "ca.pem", "authority")


@pytest.fixture(scope="module")
def server(authority: Certificate) -> ssl.SSLContext:
    certificate = make_certificate(authority.path.with_name("server.pem"), "db.example.com", authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path)
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("stranger") / "ca.pem", "authority")


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "db.example.com") -> ssl.SSLObject:
    """The server's side of a TLS connection that goes through memory. Raises what the client raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1]


class TestServer:
    def test_sslmode_require_accepts_any_certificate(self, server: ssl.SSLContext) -> None:
        assert shake_hands(client_context({"sslmode": "require"}), server).version() == "TLSv1.3"

    def test_sslmode_require_verifies_where_a_root_certificate_is_given(
        self, server: ssl.SSLContext, stranger: Certificate
    ) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(client_context({"sslmode": "require", "sslrootcert": str(stranger.path)}), server)

    @pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
    def test_sslmode_verify_refuses_a_certificate_of_another_authority(
        self, server: ssl.SSLContext, authority: Certificate, stranger: Certificate, mode: str
    ) -> None:
        shake_hands(client_context({"sslmode": mode, "sslrootcert": str(authority.path)}), server)
        for root in (str(stranger.path), "system")[: 2 if mode == "verify-full" else 1]:
            with pytest.raises(ssl.SSLCertVerificationError):
                shake_hands(client_context({"sslmode": mode, "sslrootcert": root}), server)

    def test_only_verify_full_compares_the_host_name(self, server: ssl.SSLContext, authority: Certificate) -> None:
        root = {"sslrootcert": str(authority.path)}
        shake_hands(client_context(root | {"sslmode": "verify-ca"}), server, host="other.example.com")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            shake_hands(client_context(root | {"sslmode": "verify-full"}), server, host="other.example.com")

    def test_old_versions_of_tls_are_refused(self) -> None:
        assert client_context({"sslmode": "require"}).minimum_version == ssl.TLSVersion.TLSv1_2


class TestRenewal:
    def test_authority_renewed_under_a_running_process_is_trusted(
        self, server: ssl.SSLContext, authority: Certificate, tmp_path: Path
    ) -> None:
        """An operator renews it with the key that it has, and puts it into the same file."""
        expired = make_certificate(tmp_path / "ca.pem", "authority", key=authority.key, minutes=-1)
        context = client_context({"sslmode": "verify-full", "sslrootcert": str(expired.path)})
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            shake_hands(context, server)
        renewed = make_certificate(tmp_path / "new.pem", "authority", key=authority.key)
        renewed.path.replace(expired.path)
        shake_hands(context, server)

    @pytest.mark.parametrize("text", [None, "no certificate"])
    def test_file_that_cannot_be_read_any_more_changes_nothing(
        self, server: ssl.SSLContext, authority: Certificate, tmp_path: Path, text: str | None
    ) -> None:
        file = tmp_path / "ca.pem"
        file.write_bytes(authority.path.read_bytes())
        context = client_context({"sslmode": "verify-full", "sslrootcert": str(file)})
        file.unlink()
        if text is not None:
            file.write_text(text)
        shake_hands(context, server)


class TestClient:
    def test_client_shows_its_certificate(self, server: ssl.SSLContext, authority: Certificate) -> None:
        own = make_certificate(authority.path.with_name("own.pem"), "app", authority)
        key = own.write_key(authority.path.with_name("own.key"), b"pass word")
        parameters = {"sslmode": "require", "sslcert": str(own.path), "sslkey": str(key), "sslpassword": "pass word"}
        assert shake_hands(client_context(parameters), server).getpeercert()

    @pytest.mark.parametrize("password", [{}, {"sslpassword": "s3cret"}])
    def test_client_key_that_cannot_be_decrypted_is_an_error(
        self, tmp_path: Path, authority: Certificate, password: dict[str, str]
    ) -> None:
        key = authority.write_key(tmp_path / "own.key", b"pass word")
        parameters = {"sslmode": "require", "sslcert": str(authority.path), "sslkey": str(key), **password}
        with pytest.raises(ValueError, match=r"^sslcert, sslkey, sslpassword: certificate and key cannot be loaded$"):
            client_context(parameters)

    def test_sslrootcert_file_without_certificates_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty.pem").touch()
        with pytest.raises(ValueError, match=r"^sslrootcert: no certificate can be loaded from it$"):
            client_context({"sslmode": "verify-full", "sslrootcert": str(tmp_path / "empty.pem")})
