"""A second factor beside the password: codes of an authenticator app (TOTP), and recovery codes for the day it is lost.

Whoever turned it on is asked for a code at every sign-in, by password or by single sign-on, in the dashboard or the admin: there
is one way in (`views.LoginView`, then allauth's stages). The app's secret and the seed of the recovery codes are stored sealed.
"""

from __future__ import annotations

from typing import NamedTuple

from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal import auth
from django.db import transaction

from evsys_web.accounts.audit import record
from evsys_web.accounts.models import ApiToken, User


class SecondFactor(NamedTuple):
    totp: Authenticator
    num_codes_left: int


def second_factor_of(user: User) -> SecondFactor | None:
    """None for whoever signs in without one."""
    found = {each.type: each for each in Authenticator.objects.filter(user=user)}
    totp, codes = found.get(Authenticator.Type.TOTP), found.get(Authenticator.Type.RECOVERY_CODES)
    if totp is None:
        return None
    used = int(codes.data["used_mask"]).bit_count() if codes else 0
    return SecondFactor(totp, len(RecoveryCodes(codes).generate_codes()) - used if codes else 0)


def turn_on(*, user: User, secret: str, revoke_tokens: bool) -> list[str]:
    """The recovery codes, to be shown this once. revoke_tokens: those that were made when a password alone was enough.
    [] when it is on already, because a form was sent twice."""
    with transaction.atomic():
        _lock(user)
        if second_factor_of(user):
            return []
        is_first_use(auth.TOTP.activate(user, secret).instance)  # the code that was asked for signs nobody in any more
        codes = _new_codes(user)
        record(user, "turned on the second factor of", user)
        if revoke_tokens:
            for token in ApiToken.objects.of(user).usable():
                ApiToken.objects.revoke(token.pk)
                record(user, "revoked", token, before={"state": token.state}, after={"state": "revoked"})
    return codes


def make_new_codes(*, user: User) -> list[str]:
    """The former recovery codes open nothing any more. [] without a second factor."""
    with transaction.atomic():
        _lock(user)
        if second_factor_of(user) is None:
            return []
        record(user, "made new recovery codes of", user)
        return _new_codes(user)


def remove(*, user: User, by: User | None) -> bool:
    """By the person, an administrator, or (None) a command of the server's. False when there is none."""
    with transaction.atomic():
        _lock(user)
        if not Authenticator.objects.filter(user=user).delete()[0]:
            return False
        record(by, "removed the second factor of", user)
    return True


def is_first_use(factor: Authenticator) -> bool:
    """Of the code that was right just now. allauth remembers codes in its process alone; another one would take them again."""
    if factor.type != Authenticator.Type.TOTP:
        return True  # recovery codes are counted off in their row
    half_minute = next(auth.yield_hotp_counters_from_time())  # the one that counts: no other is taken
    with transaction.atomic():
        kept = Authenticator.objects.select_for_update().filter(pk=factor.pk).first()
        if kept is None or kept.data.get("used_in") == half_minute:  # turned off, or used, a moment ago
            return False
        kept.data["used_in"] = half_minute
        kept.save(update_fields=["data"])
    return True


def num_usable_tokens(user: User) -> int:
    return ApiToken.objects.of(user).usable().count()


def _new_codes(user: User) -> list[str]:
    Authenticator.objects.filter(user=user, type=Authenticator.Type.RECOVERY_CODES).delete()
    codes: list[str] = RecoveryCodes.activate(user).generate_codes()
    return codes


def _lock(user: User) -> None:
    User.objects.select_for_update().get(pk=user.pk)
