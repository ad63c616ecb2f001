"""All settings, from the environment. Without any variable: embedded (SQLite, file broker, loopback, everything under var/).

| variable | default | meaning |
|---|---|---|
| EVSYS_HOME | var/ | database, uploads, run folders, broker files, secret key |
| EVSYS_HOST | 127.0.0.1 | address that `manage.py up` listens on; anything else is reachable by others |
| PORT | 8000 | its port |
| EVSYS_HTTPS | 0 | 1 behind a proxy that ends TLS and sets X-Forwarded-Proto: secure cookies, http redirected, HSTS |
| FORWARDED_ALLOW_IPS | 127.0.0.1 | addresses of proxies, comma-separated: their X-Forwarded-For says where a visitor comes from |
| EVSYS_STORAGE_URL | files in EVSYS_HOME | s3://bucket/prefix for uploads (needs requirements-s3.txt) |
| SECRET_KEY | made once in EVSYS_HOME | signs sessions |
| EVSYS_SECRET_KEYS | made once in EVSYS_HOME | encrypt stored credentials, comma-separated: the first seals, all open |
| EVSYS_ALLOW_PRIVATE_URLS | 0 | 1 lets endpoints lie in private networks; without it at most on this machine (addresses.py) |
| DEBUG | 0 | 1 shows tracebacks; never on a reachable machine |
| ALLOWED_HOSTS | localhost,127.0.0.1,[::1] | names that browsers may use for this server, comma-separated |
| CSRF_TRUSTED_ORIGINS | | comma-separated, scheme included |
| DATABASE_URL | SQLite in EVSYS_HOME | postgresql://user:password@host/name for the grown size |
| CELERY_BROKER_URL | files in EVSYS_HOME | redis://host:6379/0 for the grown size |
| EVSYS_URL | from EVSYS_HOST and PORT | address of this server as people type it; links in messages begin with it |
| EMAIL_URL | no e-mail is sent | smtp://user:password@host:587 (with STARTTLS), smtps://… (TLS at once), console:// prints it |
| EMAIL_FROM | evsys@localhost | sender of e-mail |
| EVSYS_OIDC_ISSUER | no single sign-on | https://login.example.org/realms/team: the OpenID Connect provider to sign in with |
| EVSYS_OIDC_CLIENT_ID | | what this server is called there; its redirect address is EVSYS_URL/accounts/sso/callback/ |
| EVSYS_OIDC_CLIENT_SECRET | | and its password there |
| EVSYS_OIDC_NAME | single sign-on | what the button says after "Continue with" |
| EVSYS_OIDC_DOMAINS | nobody new | e-mail domains, comma-separated, whose people get an account when they come; * for everybody |
| EVSYS_TRAINING_CONCURRENCY | 1 | how many runs `manage.py up` trains at a time; more than one shares the GPU among them |
| EVSYS_EVALS_CONCURRENCY | 0 | how many evals, in a worker of their own; 0: in the one that trains, in between |
| EVSYS_DEFAULT_CONCURRENCY | 0 | the same for everything else: moves of cycles, exports, transfers |
| RUN_LEASE_SECONDS | 30 | a worker that was not heard of for so long has lost its run |
| EVSYS_CHAT_MEMORY_MB | half of the memory | what the process that answers chats may take |
| EVSYS_TINKER_KEY | made at each start | key that `manage.py tinker-server` asks for |
| EVSYS_KEEP_METRICS_DAYS | 0: for ever | points of runs that ended longer ago are deleted (home/retention.py) |
| EVSYS_KEEP_ROLLOUTS_DAYS | 0: for ever | so are the samples of reinforcement learning |
| EVSYS_KEEP_CHECKPOINTS_DAYS | 0: for ever | so are checkpoints that are not the last of their run |
| EVSYS_API_RATE | 1200 | calls that an API token may make in a minute; 0 for any number |
| EVSYS_SESSION_DAYS | 14 | days after which a browser has to sign in again |
| LOG_LEVEL | INFO | DEBUG, INFO, WARNING or ERROR |
| LOG_FORMAT | line | json: one object per line, with the run that it is about, for a collector |
| OTEL_EXPORTER_OTLP_ENDPOINT | no traces | http://collector:4318 for OpenTelemetry (needs requirements-tracing.txt) |
| PROMETHEUS_MULTIPROC_DIR | one web process | an empty folder in which several of them add up what /metrics says |

A value that cannot be read stops the start with a sentence; one that can be read, but is wrong or unsafe, is a system check
(home/checks.py).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured

from evsys_web.environment import (
    credential_keys,
    database,
    file_storage,
    flag,
    half_of_the_memory,
    home_folder,
    kept_secret,
    mail,
    number,
    oidc,
    oidc_providers,
    own_url,
    words,
)

django_stubs_ext.monkeypatch()  # lets a class say ModelForm[Run] at run time as it does to the type checker

ROOT = Path(__file__).resolve().parent.parent


HOME = home_folder(ROOT / "var")
HOST = os.environ.get("EVSYS_HOST") or "127.0.0.1"
PORT = number("PORT", 8000, low=1, high=65535)
HTTPS = flag("EVSYS_HTTPS")
FORWARDED_ALLOW_IPS = os.environ.get("FORWARDED_ALLOW_IPS") or "127.0.0.1"  # uvicorn reads it, too
SECRET_KEY = os.environ.get("SECRET_KEY") or kept_secret(HOME / "secret_key", "everybody signs in anew")
CREDENTIAL_KEYS = credential_keys(HOME)
CREDENTIAL_KEYS_ARE_GIVEN = bool(words("EVSYS_SECRET_KEYS"))  # else they lie in EVSYS_HOME
ALLOW_PRIVATE_URLS = flag("EVSYS_ALLOW_PRIVATE_URLS")
TINKER_KEY = os.environ.get("EVSYS_TINKER_KEY", "")
URL = own_url(HOST, PORT, https=HTTPS)
DEBUG = flag("DEBUG")
ALLOWED_HOSTS = words("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]")
CSRF_TRUSTED_ORIGINS = words("CSRF_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "evsys_web.admin_site.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django_htmx",
    "ninja",
    "axes",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.mfa",
    "allauth.usersessions",
    "evsys_web.accounts",
    "evsys_web.datasets",
    "evsys_web.runs",
    "evsys_web.evals",
    "evsys_web.checkpoints",
    "evsys_web.curation",
    "evsys_web.cycles",
    "evsys_web.sweeps",
    "evsys_web.queue",
    "evsys_web.notifications",
    "evsys_web.home",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "evsys_web.measuring.MeasuringMiddleware",
    "evsys_web.security.ContentSecurityPolicyMiddleware",
    "evsys_web.accounts.origin.OriginMiddleware",
    "evsys_web.api.errors.ProblemMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
    "evsys_web.home.refusals.NotAllowedMiddleware",
]
ROOT_URLCONF = "evsys_web.urls"
ASGI_APPLICATION = "evsys_web.asgi.application"
WSGI_APPLICATION = "evsys_web.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [ROOT / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


DATABASES = {"default": database(HOME)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]  # by name alone, anybody could lock anybody out
AXES_CLIENT_IP_CALLABLE = "evsys_web.accounts.origin.address_of"  # None for what is no address: PostgreSQL takes no other
AXES_USERNAME_CALLABLE = "evsys_web.accounts.lockout.username_of"
AXES_LOCKOUT_CALLABLE = "evsys_web.accounts.lockout.locked_out"
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "next", "code"]  # the link of an invitation is a secret
AXES_SENSITIVE_PARAMETERS += ["old_password", "new_password1", "new_password2"]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
ACCOUNT_ADAPTER = "evsys_web.accounts.adapters.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"  # addresses prove nothing here: nobody is let in by one
ACCOUNT_RATE_LIMITS = {
    "login_failed": "10/m/ip,5/5m/key"
}  # of codes against a person (key), in each process; rates.py joins them
MFA_ADAPTER = "evsys_web.accounts.adapters.SecondFactorAdapter"
OIDC = oidc()
SOCIALACCOUNT_ADAPTER = "evsys_web.accounts.oidc_client.OidcAdapter"
SOCIALACCOUNT_REQUESTS_TIMEOUT = 10
SOCIALACCOUNT_PROVIDERS = oidc_providers(OIDC)
LOGIN_URL = "accounts:login"
LOGIN_REDIRECT_URL = "home:dashboard"
LOGOUT_REDIRECT_URL = "accounts:login"
PASSWORD_RESET_TIMEOUT = 3600
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True

STATIC_URL = "static/"
STATICFILES_DIRS = [ROOT / "static"]
WHITENOISE_USE_FINDERS = True


STORAGES = {
    "default": file_storage(HOME),
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
RUNS_DIR = HOME / "runs"
CHAT_MEMORY_MB = number("EVSYS_CHAT_MEMORY_MB", half_of_the_memory(), low=100, high=10_000_000)
CHAT_IDLE_SECONDS = 300
CONCURRENCY = {
    "training": number("EVSYS_TRAINING_CONCURRENCY", 1, low=1, high=64),
    "evals": number("EVSYS_EVALS_CONCURRENCY", 0, low=0, high=64),
    "default": number("EVSYS_DEFAULT_CONCURRENCY", 0, low=0, high=64),
}
KEEP_DAYS = {
    "metrics": number("EVSYS_KEEP_METRICS_DAYS", 0, low=0, high=36500),
    "rollouts": number("EVSYS_KEEP_ROLLOUTS_DAYS", 0, low=0, high=36500),
    "checkpoints": number("EVSYS_KEEP_CHECKPOINTS_DAYS", 0, low=0, high=36500),
}
RUN_LEASE_SECONDS = number("RUN_LEASE_SECONDS", 30, low=1, high=3600)
DATA_UPLOAD_MAX_MEMORY_SIZE = 10 * 1024 * 1024
FILE_UPLOAD_HANDLERS = ["django.core.files.uploadhandler.TemporaryFileUploadHandler"]
FILE_UPLOAD_TEMP_DIR = HOME / "uploads"

SESSION_COOKIE_NAME = "evsys_session"  # cookies are shared by all ports of a host; "sessionid" is every Django project's
SESSION_COOKIE_AGE = number("EVSYS_SESSION_DAYS", 14, low=1, high=365) * 86400
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_NAME = "evsys_csrf"
CSRF_COOKIE_SECURE = HTTPS
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^health/"]
SECURE_HSTS_SECONDS = 180 * 24 * 3600 if HTTPS else 0
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # names below or beside this one are not ours to promise TLS for
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"

EMAIL_IS_SENT = bool(os.environ.get("EMAIL_URL"))
EMAIL_TIMEOUT = 15
DEFAULT_FROM_EMAIL = os.environ.get("EMAIL_FROM") or "evsys@localhost"
_MAIL = mail()
EMAIL_BACKEND, EMAIL_HOST, EMAIL_PORT = _MAIL.backend, _MAIL.host, _MAIL.port
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _MAIL.user, _MAIL.password
EMAIL_USE_SSL, EMAIL_USE_TLS = _MAIL.use_ssl, _MAIL.use_tls

CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL") or "filesystem://"
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {}
if CELERY_BROKER_URL.startswith("filesystem:"):
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "data_folder_in": str(HOME / "broker" / "queue"),
        "data_folder_out": str(HOME / "broker" / "queue"),
        "control_folder": str(HOME / "broker" / "control"),
        "polling_interval": 0.05,  # seconds; measured: 26 ms from send to start, about 1 % of a core when idle
    }
_MEMORY: dict[str, Any] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
_MEMORY["OPTIONS"] = {"MAX_ENTRIES": 10_000}  # of 300, whoever comes from many addresses pushes out what limits guessing
_REDIS: dict[str, Any] = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": CELERY_BROKER_URL}
_REDIS["OPTIONS"] = {"socket_connect_timeout": 1, "socket_timeout": 1}  # seconds; a call must not wait for a counter
CACHES = {"default": _MEMORY, "rates": _REDIS if CELERY_BROKER_URL.startswith("redis") else _MEMORY | {"LOCATION": "rates"}}
CONNECTION_TESTS_AT_ONCE = 2  # each is a process that takes a second of processor time to begin
CONNECTION_TESTS_A_MINUTE = 10
API_RATE = number("EVSYS_API_RATE", 1200, low=0, high=1_000_000)
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = False  # the row's lease brings lost work back, not the broker
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 3_000_000  # kB; a process that trained something large is replaced after the task
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None  # however long it is away: a worker that gave up would take its run down with it
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {  # one process reads all by default, so what needs the whole machine queues behind each other
    "evsys_web.runs.tasks.*": {"queue": "training"},
    "evsys_web.evals.tasks.*": {"queue": "evals"},
    "evsys_web.cycles.tasks.*": {"queue": "default"},
    "evsys_web.accounts.tasks.*": {"queue": "messages"},
    "evsys_web.notifications.tasks.*": {"queue": "messages"},  # a process of its own: an hour's training must not delay them
}
SWEEPS = [
    "evsys_web.accounts.tasks.sweep",
    "evsys_web.notifications.sweeping.sweep",
    "evsys_web.curation.tasks.sweep",
    "evsys_web.home.beats.beat",
    "evsys_web.home.tasks.sweep",
]
"""What every worker looks over now and then besides lost and waiting work: functions of the worker's name, safe to run twice."""

LOG_LEVEL = (os.environ.get("LOG_LEVEL") or "INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
    raise ImproperlyConfigured(f"LOG_LEVEL is {LOG_LEVEL!r}; write DEBUG, INFO, WARNING or ERROR.")
LOG_FORMAT = os.environ.get("LOG_FORMAT") or "line"
if LOG_FORMAT not in {"line", "json"}:
    raise ImproperlyConfigured(f"LOG_FORMAT is {LOG_FORMAT!r}; write line or json.")
TRACES_ENDPOINT = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or ""
PROMETHEUS_MULTIPROC_DIR = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or ""  # prometheus_client reads it, too
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"subject": {"()": "evsys_web.logs.SubjectFilter"}, "unsaid": {"()": "evsys_web.encryption.Unsaid"}},
    "formatters": {
        "line": {
            "class": "evsys_web.logs.LineFormatter",
            "format": "%(asctime)s %(levelname)s %(name)s%(about)s: %(message)s",
            "datefmt": "%H:%M:%S",
        },
        "json": {
            "()": "pythonjsonlogger.orjson.OrjsonFormatter",
            "fmt": "%(levelname)s %(name)s %(message)s %(process)d %(work)s %(work_id)s",
            "rename_fields": {"levelname": "level", "name": "logger"},
            "timestamp": "at",
        },
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["subject", "unsaid"]}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django.request": {"level": "ERROR"},  # a 404 or 401 is the visitor's affair
        "django.security.RequestDataTooBig": {"level": "CRITICAL"},  # so is a form of 11 MB: its answer says so
        "uvicorn": {"handlers": [], "level": "WARNING"},  # its lines look like all others
        "uvicorn.access": {"propagate": False},
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},  # a line for each request to an endpoint
        "axes": {"level": "WARNING"},  # a line for each sign-in
        "kombu.connection": {"level": "ERROR"},  # a broker of files has no host name
        "celery.worker.strategy": {"level": "WARNING"},  # "Task … received" for each hint
        "celery.app.trace": {"level": "WARNING"},
    },
}
