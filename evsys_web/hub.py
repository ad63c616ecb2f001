"""The Hugging Face hub: whose token is sent, and every way it refuses as a sentence. HF_ENDPOINT names another hub.

The one place where a stored credential meets the hub's SDK, for models and datasets alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from evsys_web.accounts.actions import reveal_credential
from evsys_web.accounts.models import Project
from recipes.errors import BackendError, ConfigError, ErrorKind

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_REFUSALS = {
    401: (
        "The hub does not accept the token: it is wrong, expired or revoked. Store a new one in its place.",
        ErrorKind.AUTH,
    ),
    403: ("The token may not do that with {repository}. Give it write access there, or choose another name.", ErrorKind.AUTH),
    404: ("The hub knows no {repository}, or the token may not see it.", ErrorKind.REQUEST),
    409: ("The hub refuses a change of {repository} at this moment (409: a conflict). Try again.", ErrorKind.REQUEST),
    413: ("The hub says that the upload is too large.", ErrorKind.REQUEST),
    429: ("The hub asks to wait: too many requests. Try again in some minutes.", ErrorKind.RATE_LIMIT),
}


def open_hub(project: Project, credential: str) -> HfApi:
    """The hub, with the project's token of this name. Raises ConfigError."""
    from huggingface_hub import HfApi  # takes its time; the web process needs only the errors

    return HfApi(token=reveal_credential(project=project, name=credential))


def checked_repository(name: str) -> str:
    """`owner/name`. Raises ConfigError."""
    if not REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(
            "Write the repository as owner/name, of letters, digits, dots, dashes and underscores.", path=("repository",)
        )
    return name


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turns what the SDK raises into a BackendError with a sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(error, repository) from error
    except HFValidationError as error:
        raise ConfigError(f"The hub cannot have a repository {repository!r}: {error}.", path=("repository",)) from error
    except OfflineModeIsEnabled as error:
        raise BackendError("This server is set to work without the hub (HF_HUB_OFFLINE).", permanent=True) from error
    except (httpx2.HTTPError, OSError) as error:
        raise BackendError(
            f"The hub cannot be reached ({type(error).__name__}). Try again.", permanent=False, kind=ErrorKind.CONNECTION
        ) from error
    except (ValueError, RuntimeError) as error:  # of answers and transfers that went wrong
        raise BackendError(f"The hub gave an answer that makes no sense: {str(error)[:300]}", permanent=False) from error


def _refused(error: HfHubHTTPError, repository: str) -> BackendError:
    status = error.response.status_code if error.response is not None else 0
    if isinstance(error, RepositoryNotFoundError):
        status = 404  # the hub answers 401 to whoever sent no token, so as not to tell what is there
    said = f" It said: {error.server_message[:300]}" if error.server_message else ""
    if status in _REFUSALS:
        sentence, kind = _REFUSALS[status]
        return BackendError(sentence.format(repository=repository) + said, permanent=status != 429, kind=kind)
    if status >= 500:
        return BackendError(f"The hub is in trouble ({status}). Try again later.{said}", permanent=False, kind=ErrorKind.SERVER)
    return BackendError(f"The hub refused ({status}).{said}", permanent=True, kind=ErrorKind.REQUEST)
