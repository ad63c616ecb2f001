from __future__ import annotations

import sys
import time
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recipes.curation.grammar import MAX_DEPTH, parse
from recipes.curation.tokens import MAX_LENGTH
from recipes.curation.tree import NAMES, Name, Node, printed
from recipes.errors import FilterError, RecipeError
from tests.recipes.curation.trees import trees

words = st.sampled_from(
    [
        *NAMES,
        "pass@4",
        "avg@2",
        "and",
        "or",
        "not",
        "true",
        "(",
        ")",
        "(",
        ")",
        "<",
        "<=",
        "==",
        "!=",
        "+",
        "-",
        "*",
        "/",
        "0.5",
        "1",
        "@",
    ]
)
texts = (
    st.text(max_size=80)
    | st.text(st.characters(), max_size=40)  # surrogates too
    | st.lists(words, max_size=40).map(" ".join)
    | st.lists(words, max_size=40).map("".join)
)


def refusal(text: str) -> FilterError:
    with pytest.raises(FilterError) as caught:
        parse(text)
    assert isinstance(caught.value, RecipeError)
    return caught.value


@given(texts)
@example("\ud800")
@example("avg \x00")
@example("-" * 1999 + "1")
@example("not " * 499 + "n")
@example("(" * 10_000 + "1" + ")" * 10_000)
@example("1" + " + 1" * 499)
@example("1<" * 999 + "1")
@example("9" * 2000)
@example("1/(" * 49 + "n" + "+n" * 800 + ")" * 49)
@example("a" * 5000)
@settings(max_examples=300, deadline=None)
def test_any_text_parses_or_is_refused_by_one_error(text: str) -> None:
    try:
        tree = parse(text)
    except FilterError as error:
        assert 0 <= error.position <= len(text) and error.expected
        str(error).encode()
        shown, carets = error.caret().split("\n")
        shown.encode()
        assert len(shown) <= 76 and len(carets) <= 76 and "^" in carets
    else:
        assert parse(printed(tree)) == tree


@given(trees)
@settings(max_examples=200, deadline=None)
def test_printing_and_parsing_again_gives_the_same_tree(tree: Node) -> None:
    assert parse(printed(tree)) == tree


WORST = [
    "(" * MAX_DEPTH + "n" + ")" * MAX_DEPTH,
    "1or 1and 1<1+1*-(" * 25 + "n" + ")" * 25,
    "1or 1and not 1<1+1*(" * 25 + "n" + ")" * 25,
    "1/(" * 49 + "n" + "+n" * 800 + ")" * 49,
    "n<" * 999 + "n",
    "not " * MAX_DEPTH + "n" + " and n" * 250,
    "n" + " or pass@999999999999999" * 80,
    "q" * MAX_LENGTH,
    "solve" * 400,
    "9" * MAX_LENGTH,
    "é" * 1_000_000,
    "(" * 1_000_000,
]


@pytest.mark.parametrize("text", WORST, ids=range(len(WORST)))
def test_the_worst_texts_take_little_time_and_memory(text: str) -> None:
    def seconds() -> float:
        started = time.thread_time()
        with suppress(FilterError):
            parse(text)
        return time.thread_time() - started

    assert min(seconds() for _ in range(3)) < 0.05
    tracemalloc.start()
    seconds()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_the_deepest_filter_leaves_most_of_pythons_stack_to_others() -> None:
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(650)
        deepest = parse("1or 1and 1<1+1*-(" * 25 + "n" + ")" * 25)
        assert printed(parse(printed(deepest))) == printed(deepest)
        assert parse("(" * MAX_DEPTH + "n" + ")" * MAX_DEPTH) == Name("n")
    finally:
        sys.setrecursionlimit(limit)


def test_printing_never_outgrows_what_was_written() -> None:
    text = "or ".join(["1<2or-n/3>.5and(true)and 4-n==pass@3 "] * 48)
    tree = parse(text)
    assert len(printed(tree)) <= MAX_LENGTH and parse(printed(tree)) == tree


@pytest.mark.parametrize(
    ("text", "position", "found", "expected"),
    [
        ("", 0, "nothing", "a condition"),
        (" \n\t ", 0, "nothing", "a condition"),
        ("pass > 0.5", 0, "pass without its k", "pass@4"),
        ("n >= 4 and pass", 11, "pass without its k", "pass@4"),
        ("avg > foo", 6, "the unknown name foo", "one of n, n_correct"),
        ("avg > 0 and slved", 12, "the unknown name slved", "solved perhaps"),
        ("PASS@4", 0, "the unknown name PASS", "pass@k perhaps"),
        ("1 / 0", 4, "division by zero", "never 0"),
        ("1 / (n - n)", 4, "the divisor n - n", "never 0"),
        ("avg / best > 1", 6, "the divisor best", "a > c * b"),
        ("n / -0", 4, "division by zero", "never 0"),
        ("avg = 1", 4, "=", "== to compare"),
        ("avg ≥ 1", 4, "GREATER-THAN OR EQUAL TO (U+2265)", ">="),
        ("2 ** 3", 2, "**", "no powers"),
        ("n && solved", 2, "&&", "and"),
        ("avg >", 5, "the end", "a number, a name"),
        ("(avg > 1", 8, "the end", ") for the ( at character 1"),
        ("avg > 1)", 7, ")", "no ( is open"),
        ("avg 1", 4, "1", "an operator"),
        ("1 < not n", 4, "not", "a number"),
        ("+n", 0, "+", "a number"),
        ("pass @ 4", 0, "pass without its k", "pass@4"),
        ("pass@0", 5, "0 behind pass@", "a whole number from 1"),
        ("pass@-1", 5, "- behind pass@", "a whole number from 1"),
        ("pass@n", 5, "n behind pass@", "a whole number from 1"),
        ("pass@4.5", 5, "4.5 behind pass@", "a whole number from 1"),
        ("pass@04", 5, "04 behind pass@", "a whole number from 1"),
        ("solved@2", 0, "solved@", "solved alone"),
        ("pass(4)", 0, "pass without its k", "pass@4"),
        ("0x1F", 1, "x1F", "an operator"),
        ("1_000", 1, "_000", "an operator"),
        ("1e999", 0, "1e999", "a number that is 0, or from"),
        ("1234567890123456", 0, "a number of 16 digits", "at most 15 digits"),
        ("n # comment", 2, "#", "an operator"),
        ("\ufeffn", 0, "ZERO WIDTH NO-BREAK SPACE (U+FEFF)", "a number"),
        ("ｎ > 1", 0, "FULLWIDTH LATIN SMALL LETTER N (U+FF4E)", "a number"),
        ("\ud800", 0, "a character (U+D800)", "a number"),
        ("n\x00", 1, "a character (U+0000)", "an operator"),
        ("().__class__", 1, ")", "a number"),
        ("n.real", 1, ".", "an operator"),
        ("__import__('os')", 0, "the unknown name __import__", "one of"),
        ("lambda: 1", 0, "the unknown name lambda", "one of"),
        ("(" * 60 + "n" + ")" * 60, 50, "( nested 51 levels deep", "at most 50 levels"),
        ("n" * 2001, 2000, "more text", "at most 2,000 characters"),
    ],
)
def test_a_refusal_says_where_what_was_found_and_what_was_expected(text: str, position: int, found: str, expected: str) -> None:
    error = refusal(text)
    assert error.position == position
    assert found in error.found and expected in error.expected
    assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("0<avg<1", "0 < avg < 1"),
        ("not(solved)or(best==1)", "not solved or best == 1"),
        ("((a_b))".replace("a_b", "n"), "n"),
        ("True and FALSE".replace("FALSE", "False"), "true and false"),
        ("(avg - worst) - best", "(avg - worst) - best"),
        ("avg - (worst - best)", "avg - (worst - best)"),
        ("(n < 3) == true", "(n < 3) == true"),
        ("-(avg + 1) * 2", "-(avg + 1) * 2"),
        ("(solved or n) and n", "(solved or n) and n"),
        ("1e-3 < avg\n and n", "1e-3 < avg and n"),
        ("n_correct / n > .5", "n_correct / n > .5"),
        ("pass@4 / (n + 1) * -(1 - 3)", "pass@4 / (n + 1) * -(1 - 3)"),
    ],
)
def test_a_tree_has_one_spelling(text: str, spelled: str) -> None:
    assert printed(parse(text)) == spelled


def test_the_caret_stands_under_the_mistake_in_long_and_in_many_lines() -> None:
    long = "n > 0 and " * 30 + "foo" + " and n > 0" * 30
    shown, carets = refusal(long).caret().split("\n")
    assert shown[carets.index("^") : carets.index("^") + 3] == "foo" and carets.count("^") == 3
    shown, carets = refusal("n > 0\nand\tfoo > 1").caret().split("\n")
    assert (shown, carets) == ("and foo > 1", "    ^^^")
    assert refusal("avg >").caret() == "avg >\n     ^"
