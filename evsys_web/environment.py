"""Readers of the environment for settings.py, which lists the variables: one value each, or what a few of them make together.

All raise ImproperlyConfigured for what cannot be read, in a sentence that never repeats a password.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import dj_database_url
from django.core.exceptions import ImproperlyConfigured


def flag(name: str) -> bool:
    text = os.environ.get(name, "").strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"", "0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} is {text!r}; write 1 or 0.")


def words(name: str, default: str = "") -> list[str]:
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


def number(name: str, default: int, *, low: int, high: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ImproperlyConfigured(f"{name} is {text!r}; write a number from {low} to {high}.")
    return int(text)


def half_of_the_memory() -> int:
    """In megabytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2_000_000


def home_folder(default: Path) -> Path:
    home = Path(os.environ.get("EVSYS_HOME") or default).expanduser().resolve()
    try:
        for folder in (home, home / "files", home / "runs", home / "uploads"):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(
            f"EVSYS_HOME {home} cannot be used: {error.strerror}. Name a folder that you may write to."
        ) from None
    return home


def kept_secret(path: Path, lost: str) -> str:
    """Made once and kept readable by the owner alone. lost: what an emptied file costs."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(50))
    for _ in range(50):  # another process may have made the file a moment ago and not yet written it
        if key := path.read_text().strip():
            return key
        time.sleep(0.02)
    raise ImproperlyConfigured(f"{path} is empty. Remove it and start again; {lost}.")


def credential_keys(home: Path) -> list[str]:
    """The first seals, every one opens."""
    keys = words("EVSYS_SECRET_KEYS")
    if not keys:  # the file holds two while `manage.py rotate_keys` is at work
        keys = kept_secret(home / "credential_key", "stored credentials have to be entered anew").split(",")
    if min(map(len, keys)) < 32:
        raise ImproperlyConfigured("A key in EVSYS_SECRET_KEYS is shorter than 32 characters. Give random text, comma-separated.")
    return keys


class Mail(NamedTuple):
    """Django's settings for sending e-mail."""

    backend: str
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = ""
    use_ssl: bool = False
    use_tls: bool = False


def mail() -> Mail:
    """Without an address, e-mail goes nowhere. A relay that wants no password has no certificate to check either."""
    backends = "django.core.mail.backends"
    url = os.environ.get("EMAIL_URL", "")
    if not url:
        return Mail(f"{backends}.dummy.EmailBackend")
    try:
        parts = urlsplit(url)
        port = parts.port or {"smtp": 587, "smtps": 465}.get(parts.scheme, 0)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme == "console":
        return Mail(f"{backends}.console.EmailBackend")
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ImproperlyConfigured("EMAIL_URL cannot be read. Write smtp://user:password@host:587, smtps://… or console://.")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    is_ssl = parts.scheme == "smtps"
    return Mail(f"{backends}.smtp.EmailBackend", parts.hostname, port, user, password, is_ssl, not is_ssl and bool(user))


def own_url(host: str, port: int, *, https: bool) -> str:
    url = (os.environ.get("EVSYS_URL") or "").rstrip("/")
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise ImproperlyConfigured(f"EVSYS_URL is {url!r}; write it as https://evsys.example.org.")
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # nosec B104 # reads, binds nothing
    return url or f"http{'s' if https else ''}://{host}:{port}"


class Oidc(NamedTuple):
    """An OpenID Connect provider. domains: whose people may come without an invitation; "*" for everybody."""

    issuer: str
    client_id: str
    client_secret: str
    name: str
    domains: list[str]

    @property
    def provider_id(self) -> str:
        """Of this issuer alone: another one may call somebody else by the same number."""
        return f"oidc-{hashlib.sha256(self.issuer.encode()).hexdigest()[:16]}"


def oidc_providers(provider: Oidc | None) -> dict[str, Any]:
    """As allauth wants to be told."""
    app: dict[str, Any] = {}
    if provider:
        app = {"settings": {"server_url": provider.issuer}, "provider_id": provider.provider_id, "name": provider.name}
        app |= {"client_id": provider.client_id, "secret": provider.client_secret}
    return {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app] if app else []}}


def oidc() -> Oidc | None:
    issuer = os.environ.get("EVSYS_OIDC_ISSUER", "").strip().removesuffix("/.well-known/openid-configuration").rstrip("/")
    if not issuer:
        return None
    try:
        parts = urlsplit(issuer)
    except ValueError:
        parts = urlsplit("")
    is_here = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or not (parts.scheme == "https" or is_here) or parts.query or parts.fragment or parts.username:
        raise ImproperlyConfigured(
            "EVSYS_OIDC_ISSUER cannot be used. Write its address as https://login.example.org/realms/team."
        )
    client_id = os.environ.get("EVSYS_OIDC_CLIENT_ID", "").strip()
    client_secret = os.environ.get("EVSYS_OIDC_CLIENT_SECRET", "").strip()
    if not client_id or not client_secret:
        missing = "EVSYS_OIDC_CLIENT_SECRET" if client_id else "EVSYS_OIDC_CLIENT_ID"
        raise ImproperlyConfigured(f"EVSYS_OIDC_ISSUER is set, and {missing} is not. The provider gives you one.")
    name = os.environ.get("EVSYS_OIDC_NAME", "").strip() or "single sign-on"
    domains = [domain.lower().removeprefix("@") for domain in words("EVSYS_OIDC_DOMAINS")]
    return Oidc(issuer, client_id, client_secret, name, domains)


def database(home: Path) -> dict[str, Any]:
    if url := os.environ.get("DATABASE_URL"):
        try:
            config: dict[str, Any] = dict(dj_database_url.parse(url))
        except ValueError:
            raise ImproperlyConfigured(
                "DATABASE_URL cannot be read. Write it as postgresql://user:password@host:5432/name."
            ) from None
        if config["ENGINE"] == "django.db.backends.postgresql":
            # One connection per open stream would exhaust max_connections; the pool bounds them.
            config["OPTIONS"] = {**config.get("OPTIONS", {}), "pool": {"min_size": 0, "max_size": 8, "timeout": 10}}
            config["CONN_HEALTH_CHECKS"] = True  # after a restart of the server each pooled one would fail somebody's request
            return config
        if config["ENGINE"] != "django.db.backends.sqlite3":
            raise ImproperlyConfigured(f"DATABASE_URL names {config['ENGINE']}; use postgresql:// or leave it empty for SQLite.")
        name = config["NAME"]
    else:
        name = home / "evsys.sqlite3"
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
        # Measured: WAL + IMMEDIATE is the only combination without "database is locked" under four writers.
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA temp_store=MEMORY",
        },
        # A file, so that a test's server thread and worker process see the same database.
        "TEST": {"NAME": home / "test.sqlite3"},
    }


def file_storage(home: Path) -> dict[str, Any]:
    url = os.environ.get("EVSYS_STORAGE_URL")
    if not url:
        return {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": home / "files"}}
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        raise ImproperlyConfigured("EVSYS_STORAGE_URL cannot be read. Write it as s3://bucket or s3://bucket/prefix.")
    options = {"bucket_name": parts.netloc, "location": parts.path.strip("/"), "file_overwrite": False}
    return {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}
