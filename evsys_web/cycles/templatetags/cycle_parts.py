"""Cycles as lists tell of them."""

from __future__ import annotations

from django import template

from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.models import Cycle

register = template.Library()


@register.filter
def answer_sentence(cycle: Cycle) -> str:
    return answer_of(cycle).sentence
