"""`/api/v1/projects`: the projects a caller is in, their people, and invitations to them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema, Status
from pydantic import Field

from evsys_web.accounts import member_actions as actions
from evsys_web.accounts.models import Invitation, Membership, Project
from evsys_web.accounts.permissions import require_admin
from evsys_web.api.auth import caller
from evsys_web.api.idempotency import idempotent
from evsys_web.api.pagination import Page, PageQuery, Slice, paginate

router = Router(tags=["projects"])
RoleWord = Literal["viewer", "editor", "admin"]


class ProjectIn(Schema):
    name: str = Field(min_length=1, max_length=100, description="What people call it.")


class ProjectOut(Schema):
    id: int
    name: str
    created_at: datetime


class MemberOut(Schema):
    id: int = Field(description="Of the membership, not of the person.")
    username: str
    role: str

    @staticmethod
    def resolve_username(membership: Membership) -> str:
        return str(membership.user)


class RoleIn(Schema):
    role: RoleWord = Field(description="viewer looks, editor works, admin also says who is in the project.")


class InvitationIn(RoleIn):
    email: str = Field("", max_length=254, description="The link goes there when this server sends e-mail.")


class InvitationOut(Schema):
    id: int
    role: str
    email: str
    created_at: datetime
    expires_at: datetime


class InvitedOut(Schema):
    invitation: InvitationOut
    link: str = Field(description="Opens the project to one person, once. It is given out this once.")
    was_sent: bool = Field(description="Whether it was sent by e-mail as well.")


@router.get("", response=Page[ProjectOut], summary="List your projects")
def list_projects(request: HttpRequest, query: Query[PageQuery]) -> Slice:
    return paginate(Project.objects.visible_to(caller(request)), query)


@router.post("", response={201: ProjectOut}, summary="Make a project; you are its first admin")
@idempotent
def create_project(request: HttpRequest, body: ProjectIn) -> Status[Project]:
    return Status(201, actions.create_project(user=caller(request), name=body.name))


@router.get("/{int:project_id}/members", response=list[MemberOut], summary="Who is in a project")
def list_members(request: HttpRequest, project_id: int) -> list[Membership]:
    return list(_project(request, project_id).memberships.select_related("user").order_by("pk"))


@router.patch("/{int:project_id}/members/{int:member_id}", response=MemberOut, summary="Give a member another role")
def change_role(request: HttpRequest, project_id: int, member_id: int, body: RoleIn) -> Membership:
    membership = _membership(request, project_id, member_id)
    return actions.change_role(user=caller(request), membership=membership, role=body.role)


@router.delete("/{int:project_id}/members/{int:member_id}", response={204: None}, summary="Take a member out, or leave")
def remove_member(request: HttpRequest, project_id: int, member_id: int) -> Status[None]:
    actions.remove_member(user=caller(request), membership=_membership(request, project_id, member_id))
    return Status(204, None)


@router.get("/{int:project_id}/invitations", response=list[InvitationOut], summary="Invitations that are open, without links")
def list_invitations(request: HttpRequest, project_id: int) -> list[Invitation]:
    project = _project(request, project_id)
    require_admin(caller(request), project)
    return list(Invitation.objects.open().filter(project=project).order_by("pk"))


@router.post("/{int:project_id}/invitations", response={201: InvitedOut}, summary="Invite somebody by a link")
def invite(request: HttpRequest, project_id: int, body: InvitationIn) -> Status[dict[str, object]]:
    """Not idempotent: the link is stored nowhere, so it could not be given out again."""
    project = _project(request, project_id)
    invited = actions.invite(user=caller(request), project=project, role=body.role, email=body.email)
    return Status(201, invited._asdict())


@router.delete("/{int:project_id}/invitations/{int:invitation_id}", response={204: None}, summary="Withdraw an invitation")
def withdraw(request: HttpRequest, project_id: int, invitation_id: int) -> Status[None]:
    project = _project(request, project_id)
    require_admin(caller(request), project)
    invitation = get_object_or_404(Invitation.objects.open(), pk=invitation_id, project=project)
    actions.withdraw(user=caller(request), invitation=invitation)
    return Status(204, None)


def _project(request: HttpRequest, project_id: int) -> Project:
    project: Project = get_object_or_404(Project.objects.visible_to(caller(request)), pk=project_id)
    return project


def _membership(request: HttpRequest, project_id: int, member_id: int) -> Membership:
    memberships = Membership.objects.select_related("project", "user")
    membership: Membership = get_object_or_404(memberships, pk=member_id, project=_project(request, project_id))
    return membership
