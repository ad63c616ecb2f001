"""The filter language: text → tree, and tree → text. Nothing of Python's own evaluation is used on what a person typed.

    either      = both ("or" both)*
    both        = negated ("and" negated)*
    negated     = "not" negated | comparison
    comparison  = sum (("<" | "<=" | ">" | ">=" | "==" | "!=") sum)*          0 < avg < 1 is 0 < avg and avg < 1
    sum         = product (("+" | "-") product)*
    product     = unary (("*" | "/") unary)*
    unary       = "-" unary | "(" either ")" | number | "true" | "false" | name | name "@" k

Precedence and values are Python's: `and` and `or` give one of their operands, true and false count as 1 and 0, a bare number
is true unless it is 0. All numbers are float64. What may be 0 is no divisor, so that dividing never fails on a task.

Time and memory are linear in the text, which is at most 2,000 characters; nesting ends at 50, so that recursion is bounded.
"""

from __future__ import annotations

import difflib
from typing import NoReturn

from recipes.curation.tokens import HINTS, K_BEHIND_A_NAME, MAX_LENGTH, Token, token_at
from recipes.curation.tree import (
    COMPARISONS,
    INFINITY,
    NAMES,
    WITH_K,
    WORDS,
    And,
    Bounds,
    Comparison,
    Flag,
    Name,
    Negative,
    Node,
    Not,
    Number,
    Operator,
    Or,
    Product,
    Step,
    Sum,
    bounds_of,
    printed,
)
from recipes.errors import FilterError

MAX_DEPTH = 50
MAX_DIGITS = 15
SMALLEST, LARGEST = 1e-99, 1e99


def parse(text: str) -> Node:
    """The tree of a filter. Raises FilterError with the position of the first mistake.

    >>> print(printed(parse("not (solved) or  avg@4>=.5")))
    not solved or avg@4 >= .5
    >>> parse("pass > 0.5")
    Traceback (most recent call last):
    recipes.errors.FilterError: Character 1: found pass without its k; expected how many attempts are drawn, as in pass@4.
    """
    if len(text) > MAX_LENGTH:
        message = f"The filter is {len(text):,} characters long; at most {MAX_LENGTH:,} are read."
        expected = f"at most {MAX_LENGTH:,} characters"
        raise FilterError(message, text=text[: MAX_LENGTH + 1], position=MAX_LENGTH, found="more text", expected=expected)
    return _Parser(text).whole()


class _Parser:
    """One pass over the text, one token ahead."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self._open: list[int] = []
        self._bounds: dict[int, Bounds] = {}
        self._token = token_at(text, 0)

    def whole(self) -> Node:
        if self._token.kind == "end":
            expected = "a condition such as 0 < avg < 1"
            message = f"The filter is empty; expected {expected}."
            raise FilterError(message, text=self._text, position=0, found="nothing", expected=expected)
        tree = self._either()
        if self._token.kind != "end":
            self._refuse_behind_operand()
        return tree

    # the grammar, a method per line

    def _either(self) -> Node:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Node:
        parts = [self._negated()]
        while self._take("and"):
            parts.append(self._negated())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negated(self) -> Node:
        start = self._token
        if not self._take("not"):
            return self._comparison()
        self._enter(start)
        operand = self._negated()
        self._depth -= 1
        return Not(operand)

    def _comparison(self) -> Node:
        first, rest = self._sum(), []
        while self._token.kind == "sign" and self._token.text in COMPARISONS:
            rest.append(Step(self._operator(), self._sum()))
        return Comparison(first, tuple(rest)) if rest else first

    def _sum(self) -> Node:
        first, rest = self._product(), []
        while self._token.kind == "sign" and self._token.text in "+-":
            rest.append(Step(self._operator(), self._product()))
        return Sum(first, tuple(rest)) if rest else first

    def _product(self) -> Node:
        first, rest = self._unary(), []
        while self._token.kind == "sign" and self._token.text in "*/":
            operator, start = self._operator(), self._token
            operand = self._unary()
            if operator is Operator.BY:
                self._check_divisor(operand, start)
            rest.append(Step(operator, operand))
        return Product(first, tuple(rest)) if rest else first

    def _unary(self) -> Node:
        token = self._token
        if token.kind == "number":
            return self._number()
        if token.kind == "word":
            return self._word()
        if token.text not in ("-", "("):
            self._refuse(token, "a number, a name such as avg or n, not, - or (")
        self._enter(token)
        self._next()
        if token.text == "-":
            operand = self._unary()
            self._depth -= 1
            return Negative(operand)
        self._open.append(token.start)
        inner = self._either()
        if self._token.text != ")":
            self._refuse_behind_operand()
        self._next()
        self._open.pop()
        self._depth -= 1
        return inner

    def _number(self) -> Node:
        token = self._token
        mantissa = token.text.lower().partition("e")[0]
        digits = mantissa.lstrip("0").replace(".", "")
        if len(digits) > MAX_DIGITS:
            self._refuse(token, f"a number of at most {MAX_DIGITS} digits", found=f"a number of {len(digits):,} digits")
        exponent = token.text[len(mantissa) + 1 :]
        value = float(token.text) if len(exponent) <= 4 else INFINITY
        if value and not SMALLEST <= value <= LARGEST:
            self._refuse(token, f"a number that is 0, or from {SMALLEST:g} to {LARGEST:g}")
        self._next()
        return Number(value, token.text)

    def _word(self) -> Node:
        token = self._token
        name, end = token.text, token.start + len(token.text)
        if name in ("true", "false", "True", "False"):
            self._next()
            return Flag(name.lower() == "true")
        if name in WORDS:
            place = "a number, a name such as avg or n, - or (" if name == "not" else "a condition on each side of it"
            self._refuse(token, place)
        if name not in NAMES:
            self._refuse(token, _expected_name(name), found=f"the unknown name {token.shown}")
        if self._text[end : end + 1] != "@":
            if name == "pass":
                self._refuse(token, "how many attempts are drawn, as in pass@4", found="pass without its k")
            self._next()
            return Name(name)
        found = K_BEHIND_A_NAME.match(self._text, end)
        if name not in WITH_K:
            self._refuse(token, f"{name} alone; @k goes with {', '.join(WITH_K)}", found=f"{name}@")
        if found is None:
            at = token_at(self._text, end + 1)
            self._refuse(at, f"a whole number from 1, directly behind {name}@", found=f"{at.shown} behind {name}@")
        self._token = token_at(self._text, found.end())
        return Name(name, int(found[1]))

    # what the grammar's methods share

    def _next(self) -> None:
        self._token = token_at(self._text, self._token.start + len(self._token.text))

    def _take(self, word: str) -> bool:
        if self._token.text != word:
            return False
        self._next()
        return True

    def _operator(self) -> Operator:
        operator = Operator(self._token.text)
        self._next()
        return operator

    def _enter(self, token: Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(token, f"at most {MAX_DEPTH} levels", found=f"{token.shown} nested {self._depth} levels deep")

    def _check_divisor(self, divisor: Node, start: Token) -> None:
        low, high = bounds_of(divisor, self._bounds)
        if low <= 0 <= high:
            what = "division by zero" if low == high else f"the divisor {printed(divisor)}, which is 0 for some tasks"
            expected = "a divisor that is never 0, such as a number or n; instead of a / b > c write a > c * b"
            self._refuse(start, expected, found=what if len(what) <= 120 else "a divisor that is 0 for some tasks")

    def _refuse_behind_operand(self) -> NoReturn:
        if self._token.text == ")" and not self._open:
            self._refuse(self._token, "an operator or the end: no ( is open here")
        close = f"or ) for the ( at character {self._open[-1] + 1:,}" if self._open else "or the end"
        self._refuse(self._token, f"an operator such as and, <, == or +, {close}")

    def _refuse(self, token: Token, expected: str, *, found: str = "") -> NoReturn:
        found = found or token.shown
        if token.text in HINTS:
            expected = f"{HINTS[token.text]}" if token.kind == "unknown" else expected
        message = f"Character {token.start + 1:,}: found {found}; expected {expected}."
        raise FilterError(message, text=self._text, position=token.start, length=len(token.text), found=found, expected=expected)


def _expected_name(name: str) -> str:
    close = difflib.get_close_matches(name.lower()[:40], [*NAMES, *WORDS], n=1, cutoff=0.6)
    near = f"{close[0]}@k" if close == ["pass"] else "".join(close)
    known = ", ".join(f"{known}@k" if known == "pass" else known for known in NAMES)
    return f"{near} perhaps; the names are {known}" if near else f"one of {known}"
