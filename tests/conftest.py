"""People and doors that every test knows: alice is admin of the project, bob edits, carol looks, mallory is a stranger."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
from django.http import HttpResponse
from django.test import Client
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from evsys_web.accounts.models import ApiToken, Membership, Project, Role, Scope, User
from evsys_web.celery import app
from tests import emptying

emptying.install()

# A busy machine is no failure; speed is measured in benchmarks/.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


BROWSER = "tests/browser"
LONG = (
    BROWSER,
    "tests/evsys_web/test_survival.py",
    "tests/contracts/test_urls.py",
    "tests/evsys_web/home/test_demo.py",
    "tests/evsys_web/home/test_backup.py",
    "tests/faults/",
    "tests/contracts/test_fuzz.py",
    "tests/evsys_web/runs/test_worker.py",
    "tests/evsys_web/evals/test_worker.py",
    "tests/evsys_web/home/test_containers.py",
)
"""What takes about a minute or more, longest first."""


class Scheduling(LoadFileScheduling):
    """A file's tests stay together, for they share servers; those that share the browser and its stack are as one file."""

    def _split_scope(self, nodeid: str) -> str:
        return BROWSER if nodeid.startswith(BROWSER) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: begun last, it would keep one process busy when the others have nothing left to do."""
    items.sort(key=lambda item: next((place for place, long in enumerate(LONG) if item.nodeid.startswith(long)), len(LONG)))


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice", "alice@example.org", "alice's password")


@pytest.fixture
def project(alice: User) -> Project:
    return Project.objects.create_for(alice, name="Sums")


@pytest.fixture
def bob(project: Project) -> User:
    bob = User.objects.create_user("bob", "bob@example.org", "bob's password")
    Membership.objects.create(project=project, user=bob, role=Role.EDITOR)
    return bob


@pytest.fixture
def carol(project: Project) -> User:
    carol = User.objects.create_user("carol", "carol@example.org", "carol's password")
    Membership.objects.create(project=project, user=carol, role=Role.VIEWER)
    return carol


@pytest.fixture
def mallory(db: None) -> User:
    """Signed in, with a project of her own, and no business in alice's."""
    mallory = User.objects.create_user("mallory", "mallory@example.org", "mallory's password")
    Project.objects.create_for(mallory, name="Mallory's")
    return mallory


@pytest.fixture
def admin(db: None) -> User:
    return User.objects.create_superuser("admin", "admin@example.org", "admin's password")


@pytest.fixture
def alice_client(alice: User, project: Project) -> Client:
    """A browser in which alice, admin of `project`, is signed in."""
    return signed_in(alice)


@pytest.fixture
def bob_client(bob: User) -> Client:
    return signed_in(bob)


@pytest.fixture
def carol_client(carol: User) -> Client:
    return signed_in(carol)


@pytest.fixture
def mallory_client(mallory: User) -> Client:
    return signed_in(mallory)


@pytest.fixture
def alice_headers(alice: User, project: Project) -> dict[str, str]:
    """For `client.get(url, headers=alice_headers)`: a bearer token of alice's that may write."""
    return token_headers(alice)


@pytest.fixture
def carol_headers(carol: User) -> dict[str, str]:
    """A token of carol's that may write; her role may not."""
    return token_headers(carol)


@pytest.fixture
def mallory_headers(mallory: User) -> dict[str, str]:
    return token_headers(mallory)


@pytest.fixture
def read_only_headers(alice: User, project: Project) -> dict[str, str]:
    """A bearer token of alice's that may only read."""
    return token_headers(alice, scope=Scope.READ)


@pytest.fixture
def eager_tasks() -> Iterator[None]:
    """Celery tasks run at once, in this process, and raise what they raise."""
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    yield
    app.conf.update(task_always_eager=False, task_eager_propagates=False)


def as_read(answer: HttpResponse) -> str:
    """A page's text, whatever keeps its numbers and their units on one line."""
    return answer.content.decode().replace("\N{NO-BREAK SPACE}", " ").replace("\N{WORD JOINER}", "")


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def token_headers(user: User, *, scope: str = Scope.WRITE) -> dict[str, str]:
    _, secret = ApiToken.objects.issue(user, name="test", scope=scope)
    return {"Authorization": f"Bearer {secret}"}
