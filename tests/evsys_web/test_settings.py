from __future__ import annotations

import ast
import re
import runpy
import stat
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "evsys_web" / "settings.py"
READERS = (SETTINGS, ROOT / "evsys_web" / "environment.py")
VARIABLES = [row.group(1) for row in re.finditer(r"^\| ([A-Z_]+) \|", SETTINGS.read_text(), re.MULTILINE)]


class Loader:
    """Runs the settings module afresh under a given environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.monkeypatch, self.home = monkeypatch, home

    def __call__(self, **environment: str) -> dict[str, Any]:
        for name in VARIABLES:
            self.monkeypatch.delenv(name, raising=False)
        for name, value in {"EVSYS_HOME": str(self.home), **environment}.items():
            self.monkeypatch.setenv(name, value)
        return runpy.run_path(str(SETTINGS))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Loader:
    return Loader(monkeypatch, tmp_path / "home")


def test_without_any_variable_everything_is_embedded(load: Loader) -> None:
    settings = load()
    assert settings["DATABASES"]["default"]["ENGINE"] == "django.db.backends.sqlite3"
    assert settings["DATABASES"]["default"]["OPTIONS"]["transaction_mode"] == "IMMEDIATE"
    assert settings["CELERY_BROKER_URL"] == "filesystem://"
    assert (settings["HOST"], settings["PORT"], settings["DEBUG"]) == ("127.0.0.1", 8000, False)
    for option in ("data_folder_in", "data_folder_out", "control_folder"):
        assert settings["CELERY_BROKER_TRANSPORT_OPTIONS"][option].startswith(str(load.home))


def test_the_secret_key_is_made_once_and_readable_by_its_owner_alone(load: Loader) -> None:
    first = load()["SECRET_KEY"]
    assert len(first) >= 50
    assert load()["SECRET_KEY"] == first
    assert stat.S_IMODE((load.home / "secret_key").stat().st_mode) == 0o600


def test_a_given_secret_key_is_not_written_down(load: Loader) -> None:
    assert load(SECRET_KEY="given")["SECRET_KEY"] == "given"
    assert not (load.home / "secret_key").exists()


def test_an_empty_key_file_is_refused_rather_than_used(load: Loader) -> None:
    load.home.mkdir()
    (load.home / "secret_key").write_text("")
    with pytest.raises(ImproperlyConfigured, match="is empty"):
        load()


OIDC = {
    "EVSYS_OIDC_ISSUER": "https://login.example.org/realms/team/",
    "EVSYS_OIDC_CLIENT_ID": "evsys",
    "EVSYS_OIDC_CLIENT_SECRET": "a secret",
}


def test_single_sign_on_is_off_until_a_provider_is_named(load: Loader) -> None:
    assert load()["OIDC"] is None and load()["SOCIALACCOUNT_PROVIDERS"]["openid_connect"]["APPS"] == []
    settings = load(**OIDC, EVSYS_OIDC_DOMAINS="Example.org, @example.net")
    assert settings["OIDC"].issuer == "https://login.example.org/realms/team"
    assert (settings["OIDC"].name, settings["OIDC"].domains) == ("single sign-on", ["example.org", "example.net"])
    assert load(**OIDC | {"EVSYS_OIDC_ISSUER": "https://other.example"})["OIDC"].provider_id != settings["OIDC"].provider_id


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"EVSYS_OIDC_ISSUER": "http://login.example.org"}, "cannot be used"),
        ({"EVSYS_OIDC_ISSUER": "login.example.org"}, "cannot be used"),
        ({"EVSYS_OIDC_ISSUER": "https://me:pw@login.example.org"}, "cannot be used"),
        ({"EVSYS_OIDC_ISSUER": "https://[::1"}, "cannot be used"),
        ({"EVSYS_OIDC_CLIENT_ID": ""}, "EVSYS_OIDC_CLIENT_ID is not"),
        ({"EVSYS_OIDC_CLIENT_SECRET": " "}, "EVSYS_OIDC_CLIENT_SECRET is not"),
    ],
)
def test_half_a_provider_stops_the_start(load: Loader, changed: dict[str, str], says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        load(**OIDC | changed)


def test_postgresql_gets_a_bounded_pool(load: Loader) -> None:
    database = load(DATABASE_URL="postgresql://evsys:pw@db:5432/evsys")["DATABASES"]["default"]
    assert (database["ENGINE"], database["HOST"]) == ("django.db.backends.postgresql", "db")
    assert database["OPTIONS"]["pool"]["max_size"] <= 10


def test_a_sqlite_url_keeps_the_measured_options(load: Loader) -> None:
    database = load(DATABASE_URL="sqlite:////srv/evsys.sqlite3")["DATABASES"]["default"]
    assert database["NAME"] == "/srv/evsys.sqlite3"
    assert database["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_redis_gets_none_of_the_file_brokers_options(load: Loader) -> None:
    settings = load(CELERY_BROKER_URL="redis://localhost:6379/0")
    assert settings["CELERY_BROKER_URL"] == "redis://localhost:6379/0"
    assert settings["CELERY_BROKER_TRANSPORT_OPTIONS"] == {}


def test_https_hardens_the_cookies_and_leaves_health_reachable(load: Loader) -> None:
    settings = load(EVSYS_HTTPS="1")
    assert settings["SESSION_COOKIE_SECURE"] and settings["CSRF_COOKIE_SECURE"] and settings["SECURE_SSL_REDIRECT"]
    assert any(re.match(pattern, "health/ready") for pattern in settings["SECURE_REDIRECT_EXEMPT"])
    plain = load()
    assert not plain["SESSION_COOKIE_SECURE"]
    assert plain["SECURE_PROXY_SSL_HEADER"] is None


def test_s3_keeps_bucket_and_prefix_apart(load: Loader) -> None:
    storage = load(EVSYS_STORAGE_URL="s3://bucket/team/a")["STORAGES"]["default"]
    assert storage["BACKEND"] == "storages.backends.s3.S3Storage"
    assert (storage["OPTIONS"]["bucket_name"], storage["OPTIONS"]["location"]) == ("bucket", "team/a")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "http", "write a number from 1 to 65535"),
        ("PORT", "70000", "write a number from 1 to 65535"),
        ("PORT", "-1", "write a number from 1 to 65535"),
        ("DEBUG", "maybe", "write 1 or 0"),
        ("EVSYS_HTTPS", "2", "write 1 or 0"),
        ("DATABASE_URL", "nonsense", "Write it as postgresql://"),
        ("DATABASE_URL", "mysql://root@db/evsys", "use postgresql://"),
        ("DATABASE_URL", "oracel://x", "Write it as postgresql://"),
        ("EVSYS_STORAGE_URL", "ftp://files", "Write it as s3://"),
        ("EVSYS_STORAGE_URL", "s3://", "Write it as s3://"),
        ("LOG_LEVEL", "loud", "write DEBUG, INFO, WARNING or ERROR"),
        ("EVSYS_HOME", "/dev/null/home", "Name a folder that you may write to"),
    ],
)
def test_a_value_that_cannot_be_read_stops_the_start_with_a_sentence(load: Loader, name: str, value: str, sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(sentence)) as caught:
        load(**{name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(("text", "are_given"), [("", False), (" , ", False), ("k" * 40, True)])
def test_empty_keys_are_as_good_as_none(load: Loader, text: str, are_given: bool) -> None:
    found = load(EVSYS_SECRET_KEYS=text)
    assert found["CREDENTIAL_KEYS_ARE_GIVEN"] is are_given and (found["CREDENTIAL_KEYS"] == ["k" * 40]) is are_given


def test_a_database_password_never_stands_in_the_sentence(load: Loader) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        load(DATABASE_URL="oracel://evsys:hunter2@db/evsys")
    assert "hunter2" not in str(caught.value)


def test_the_environment_is_read_in_settings_and_nowhere_else() -> None:
    """`setdefault("DJANGO_SETTINGS_MODULE", …)` and the whole environment handed to a child process are the exceptions."""
    readers = []
    for path in sorted((ROOT / "evsys_web").rglob("*.py")):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if re.search("environ|getenv", source) else ():
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Subscript) else ""
            if path not in READERS and re.match(r"(os\.)?(environ(\.get|\.pop)?[\[(]|getenv\()", text):
                readers.append(f"{path.relative_to(ROOT)}: {text}")
    assert readers == []


def test_the_table_lists_exactly_the_variables_that_are_read() -> None:
    body = "".join(path.read_text().split('"""', 2)[2] for path in READERS)
    read = set(re.findall(r'(?:environ\.get|flag|words|number)\("([A-Z_]+)"', body))
    assert read == set(VARIABLES)


def test_email_is_off_until_a_server_is_named(load: Loader) -> None:
    settings = load()
    assert settings["EMAIL_BACKEND"].endswith("dummy.EmailBackend") and not settings["EMAIL_IS_SENT"]
    assert load(EMAIL_URL="console://")["EMAIL_BACKEND"].endswith("console.EmailBackend")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("smtp://ada:p%40ss@mail.example.org", ("mail.example.org", 587, "ada", "p@ss", True, False)),
        ("smtps://ada:secret@mail.example.org:4465", ("mail.example.org", 4465, "ada", "secret", False, True)),
        ("smtp://relay:25", ("relay", 25, "", "", False, False)),
    ],
)
def test_a_mail_server_is_read_from_one_address(load: Loader, url: str, found: tuple[Any, ...]) -> None:
    settings = load(EMAIL_URL=url)
    names = ("HOST", "PORT", "HOST_USER", "HOST_PASSWORD", "USE_TLS", "USE_SSL")
    assert settings["EMAIL_IS_SENT"] and tuple(settings[f"EMAIL_{name}"] for name in names) == found


@pytest.mark.parametrize("url", ["mail.example.org", "smtp://", "http://mail.example.org", "smtp://mail:port"])
def test_a_mail_server_that_cannot_be_read_stops_the_start(load: Loader, url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="EMAIL_URL cannot be read"):
        load(EMAIL_URL=url)


def test_links_in_messages_begin_with_the_servers_own_address(load: Loader) -> None:
    assert load(PORT="9000")["URL"] == "http://127.0.0.1:9000"
    assert load(EVSYS_URL="https://evsys.example.org/")["URL"] == "https://evsys.example.org"
    with pytest.raises(ImproperlyConfigured, match="EVSYS_URL"):
        load(EVSYS_URL="evsys.example.org")
