"""An identity provider to test against: a real HTTP server on loopback with keys, discovery and bad days.

It signs tokens of any kind, proper and forged, counts what is fetched from it, and can be down, slow,
endless or plain wrong. It signs people in as well, by an authorization code with PKCE: at once, without a question.
"""

import base64
import gzip
import hmac
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

JWKS_PATH = "/jwks.json"
DISCOVERY_PATH = "/.well-known/openid-configuration"

CLIENT_ID = "plinth-ops"
CLIENT_SECRET = "a secret: of the client+%"


@dataclass(frozen=True)
class SigningKey:
    """A private key of the provider, under the name and for the algorithm that it is published with."""

    kid: str | None
    alg: str
    private: Any = field(repr=False)

    @classmethod
    def make(cls, kid: str | None = "key-1", alg: str = "RS256") -> Self:
        return cls(kid, alg, _private_key(alg, kid))

    @property
    def public(self) -> Any:
        return self.private.public_key()

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public key as a JWK. A member given as None is left out."""
        jwk = jwt.get_algorithm_by_name(self.alg).to_jwk(self.public, as_dict=True)
        jwk = {name: value for name, value in jwk.items() if name != "key_ops"}
        jwk |= {"kid": self.kid, "alg": self.alg, "use": "sig"} | members
        return {name: value for name, value in jwk.items() if value is not None}

    def public_bytes(self, encoding: Encoding) -> bytes:
        published: bytes = self.public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        return published

    def sign(self, signing_input: bytes) -> bytes:
        signature: bytes = jwt.get_algorithm_by_name(self.alg).sign(signing_input, self.private)
        return signature


@cache  # an RSA key takes 50 ms to make
def _private_key(alg: str, _name: str | None) -> Any:
    if alg == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    if alg.startswith("ES"):
        curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
        return ec.generate_private_key(curves[alg])
    return rsa.generate_private_key(65537, 2048)


def compact(header: Mapping[str, Any], claims: object, sign: Callable[[bytes], bytes]) -> str:
    """Put a token together, whatever is in it. PyJWT would refuse to make some of these."""
    signing_input = b".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return b".".join((signing_input, base64url(sign(signing_input)))).decode()


def signed(key: SigningKey, claims: object, **header: Any) -> str:
    """A token signed with `key`. `header` replaces members of the header; one given as `...` is left out."""
    full = {"alg": key.alg, "typ": "JWT", "kid": key.kid} | header
    return compact({name: value for name, value in full.items() if value is not ...}, claims, key.sign)


def base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda signing_input: hmac.digest(secret, signing_input, "sha256")


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Mood(Enum):
    """How the server answers. DOWN is another matter: see `IdentityProvider.down`."""

    WELL = auto()
    ERROR = auto()  # 500
    REDIRECTING = auto()  # 302 to a place where the true answer is
    TRICKLING = auto()  # a byte now and then, without end
    SILENT = auto()  # takes the request and says nothing
    HUGE = auto()  # 10 MB that begin like the answer
    BOMB = auto()  # the answer, padded to 10 MB, packed to 10 KB
    GARBAGE = auto()  # not JSON
    NOT_AN_OBJECT = auto()  # JSON, but a list
    NESTED = auto()  # JSON too deep to read
    EMPTY = auto()  # no body
    NO_KEYS = auto()  # a key set with nothing in it


class IdentityProvider:
    """`with IdentityProvider() as provider:` has one that listens."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys) or [SigningKey.make()]
        self.mood = Mood.WELL
        self.fetched: Counter[str] = Counter()
        self.discovery: dict[str, Any] = {}
        """Members that replace those of the discovery document."""
        self.id_token: dict[str, Any] = {}
        """Claims of the next ID tokens, beside the good ones; `...` leaves one out."""
        self.access_token: dict[str, Any] = {}
        """The same of the access tokens, whose audience is `plinth`."""
        self.token_answer: dict[str, Any] = {}
        """Members that replace those of the token endpoint's answers."""
        self._codes: dict[str, dict[str, str]] = {}
        self.sent = 0  # bytes of body
        self.called = threading.Event()
        """Set by the first request."""
        self._closing = threading.Event()
        self._server = self._listen(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self.down()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def jwks_url(self) -> str:
        return self.url + JWKS_PATH

    @property
    def issuer(self) -> str:
        return self.url

    @property
    def jwks_fetches(self) -> int:
        return self.fetched[JWKS_PATH]

    def down(self) -> None:
        """Close the port: connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def up(self) -> None:
        """Open the port again."""
        self._server = self._listen(self._port)

    def _listen(self, port: int) -> ThreadingHTTPServer | None:
        handler = type("Handler", (_Handler,), {"provider": self})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        server.daemon_threads = True
        server.block_on_close = False
        self._port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Good claims, with some replaced. A claim given as `...` is left out."""
        now = int(time.time())
        good = {"iss": self.issuer, "aud": "plinth", "sub": "alice", "iat": now, "exp": now + 600}
        return {name: value for name, value in (good | claims).items() if value is not ...}

    def token(self, key: SigningKey | None = None, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token signed with `key` (by default the first one), good but for what is replaced."""
        return signed(key or self.keys[0], self.claims(**claims), **(header or {}))

    def document(self, path: str) -> object | None:
        if path == JWKS_PATH:
            return {"keys": [key.jwk() for key in self.keys]}
        if path == DISCOVERY_PATH:
            document = {
                "issuer": self.issuer,
                "jwks_uri": self.jwks_url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "end_session_endpoint": f"{self.url}/logout",
            } | self.discovery
            return {name: value for name, value in document.items() if value is not ...}
        return None

    def authorize(self, asked: Mapping[str, str]) -> str:
        """Sign the person in, and return the address that the browser goes to."""
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        assert asked["client_id"] == CLIENT_ID
        code = secrets.token_urlsafe(8)
        self._codes[code] = dict(asked)
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.issuer})}"

    def redeem(self, form: Mapping[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Answer a request to the token endpoint. A code is good once."""
        basic = base64.b64encode(f"{quote(CLIENT_ID, safe='')}:{quote(CLIENT_SECRET, safe='')}".encode()).decode()
        posted = (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
        if authorization != f"Basic {basic}" and not posted:
            return 401, {"error": "invalid_client"}
        asked = self._codes.pop(form.get("code", ""), None)
        challenge = base64url(sha256(form.get("code_verifier", "").encode()).digest()).decode()
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or form.get("redirect_uri") != asked["redirect_uri"]
            or challenge != asked["code_challenge"]
        ):
            return 400, {"error": "invalid_grant"}
        identity = {"aud": CLIENT_ID, "nonce": asked["nonce"]} | self.id_token
        tokens = {"id_token": self.token(**identity), "access_token": self.token(**self.access_token)}
        return 200, {"token_type": "Bearer", **tokens} | self.token_answer


class _Handler(BaseHTTPRequestHandler):
    provider: IdentityProvider

    def do_POST(self) -> None:
        self.provider.fetched[self.path] += 1
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, answer = self.provider.redeem(dict(parse_qsl(body)), self.headers.get("Authorization", ""))
        self._answer(status, json.dumps(answer).encode())

    def do_GET(self) -> None:
        provider = self.provider
        provider.fetched[self.path] += 1
        if self.path.startswith("/authorize?"):
            back = provider.authorize(dict(parse_qsl(urlsplit(self.path).query)))
            return self._answer(302, b"", Location=back)
        if self.path.startswith("/logout?"):
            asked = dict(parse_qsl(urlsplit(self.path).query))
            return self._answer(302, b"", Location=asked["post_logout_redirect_uri"])
        moved = self.path.startswith("/moved")
        path = self.path.removeprefix("/moved")
        provider.called.set()
        document = provider.document(path)
        if document is None:
            return self._answer(404, b"")
        body = json.dumps(document).encode()
        match Mood.WELL if moved else provider.mood:
            case Mood.WELL:
                self._answer(200, body)
            case Mood.ERROR:
                self._answer(500, body)
            case Mood.REDIRECTING:
                self._answer(302, body, Location=f"{provider.url}/moved{path}")
            case Mood.TRICKLING:
                self._begin(200, {"Content-Length": "1000000"})
                while not provider._closing.wait(0.02) and self._write(b" "):
                    pass
            case Mood.SILENT:
                provider._closing.wait(10)
            case Mood.HUGE:
                self._answer(200, body + b" " * 10_000_000)
            case Mood.BOMB:
                self._answer(200, gzip.compress(body + b" " * 10_000_000), **{"Content-Encoding": "gzip"})
            case Mood.GARBAGE:
                self._answer(200, b"<html>down for maintenance</html>")
            case Mood.NOT_AN_OBJECT:
                self._answer(200, b"[" + body + b"]")
            case Mood.NESTED:
                self._answer(200, b"[" * 100_000)
            case Mood.EMPTY:
                self._answer(200, b"")
            case Mood.NO_KEYS:
                self._answer(200, b'{"keys": []}')
        return None

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self._begin(status, headers)  # without a length: the reader has to count
        for start in range(0, len(body), 16_384):
            if not self._write(body[start : start + 16_384]):
                return

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _write(self, data: bytes) -> bool:
        try:
            self.wfile.write(data)
        except OSError:  # the reader has had enough
            return False
        self.provider.sent += len(data)
        return True

    def log_message(self, *_: object) -> None:
        pass
