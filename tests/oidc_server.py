"""An OpenID Connect provider on loopback that the real client talks to: discovery, authorize, token with PKCE, RS256, user info.
It signs in whoever comes as `claims` say, and can be told to lie, to refuse, or to be away.

`with oidc_server() as provider:` runs it; `provider.sign_in(client)` is what a browser does between our two pages."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client

CLIENT_ID, CLIENT_SECRET = "evsys", "a-secret-between-the-two"


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class FakeProvider:
    """claims: of whoever signs in. id_claims: said differently in the ID token. signs: gives the key that it is signed with.
    broken: path → status that is answered instead, or bytes. error: what authorize answers."""

    def __init__(self) -> None:
        self.url = ""
        self.key = rsa_key()
        self.reset()

    def reset(self) -> None:
        self.claims: dict[str, Any] = {
            "sub": "248289761001",
            "email": "erin@example.org",
            "email_verified": True,
            "preferred_username": "erin",
            "given_name": "Erin",
            "family_name": "Example",
        }
        self.id_claims: dict[str, Any] = {}
        self.has_id_token = True
        self.signs = lambda: self.key
        self.broken: dict[str, int | bytes] = {}
        self.error = ""
        self.asked: dict[str, str] = {}
        """By the last authorize."""
        self.codes: dict[str, dict[str, str]] = {}

    def discovery(self) -> dict[str, Any]:
        ends = {f"{path}_endpoint": f"{self.url}/{path}" for path in ("token", "userinfo")}
        return {"issuer": self.url, "authorization_endpoint": f"{self.url}/authorize", "jwks_uri": f"{self.url}/jwks", **ends}

    def answer(self, path: str, query: dict[str, str], body: dict[str, str], bearer: str) -> tuple[int, dict[str, Any] | str]:
        """Status and JSON, or where to go on."""
        if path == "/.well-known/openid-configuration":
            return 200, self.discovery()
        if path == "/jwks":
            public = jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
            return 200, {"keys": [{**public, "kid": "one", "alg": "RS256", "use": "sig"}]}
        if path == "/authorize":
            return 302, self._authorize(query)
        if path == "/token":
            return self._token(body)
        if path == "/userinfo" and bearer in self.codes:
            return 200, self.claims
        return 404, {"error": "not_found"}

    def _authorize(self, query: dict[str, str]) -> str:
        self.asked = query
        assert query["client_id"] == CLIENT_ID and query["response_type"] == "code" and "openid" in query["scope"].split()
        code = secrets.token_urlsafe(8)
        self.codes[code] = query
        sent = {"error": self.error, "error_description": "<b>no</b>"} if self.error else {"code": code}
        return f"{query['redirect_uri']}?{urlencode(sent | {'state': query['state']})}"

    def _token(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        asked = self.codes.get(body.get("code", ""))
        verifier = hashlib.sha256(body.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
        if (body.get("client_id"), body.get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return 401, {"error": "invalid_client"}
        if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != body["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        at = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": at, "exp": at + 3600, "jti": secrets.token_hex(8), **self.claims}
        claims |= self.id_claims
        token = {"access_token": body["code"], "token_type": "Bearer", "expires_in": 3600}
        if self.has_id_token:
            token["id_token"] = jwt.encode(claims, self.signs(), algorithm="RS256", headers={"kid": "one"})
        return 200, token

    def sign_in(self, client: Client, *, start: str = "/accounts/sso/", follow: bool = True) -> Any:
        """From our button to the provider and back; what our callback answers. follow: use a browser's last step, too."""
        response = client.get(start)
        if response.status_code != 302 or not response["Location"].startswith(self.url):
            return response
        back = self.visit(response["Location"])
        return client.get(back) if follow else back

    def visit(self, address: str) -> str:
        """As the browser does: where the provider sends it, less our own host."""
        parts = urlsplit(address)
        _, there = self.answer(parts.path, dict(parse_qsl(parts.query)), {}, "")
        assert isinstance(there, str)
        back = urlsplit(there)
        assert back.netloc == "testserver" and back.path == "/accounts/sso/callback/"
        return f"{back.path}?{back.query}"


@contextmanager
def oidc_server() -> Iterator[FakeProvider]:
    provider = FakeProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({})

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self._answer({name: values[0] for name, values in parse_qs(text).items()})

        def _answer(self, body: dict[str, str]) -> None:
            parts = urlsplit(self.path)
            bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
            broken = provider.broken.get(parts.path)
            if isinstance(broken, bytes):
                status, sent = 200, broken
            elif broken is not None:
                status, sent = broken, b"away <b>for lunch</b>"
            else:
                status, answer = provider.answer(parts.path, dict(parse_qsl(parts.query)), body, bearer)
                sent = json.dumps(answer).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", json.loads(sent))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            """Quietly."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)
