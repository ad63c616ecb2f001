"""Random filters."""

from __future__ import annotations

from hypothesis import strategies as st

from recipes.curation.tree import (
    And,
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
)

names = st.sampled_from(["n", "n_correct", "solved", "avg", "best", "worst"]).map(Name)
names_with_k = st.builds(Name, st.sampled_from(["pass", "pass", "avg", "best", "worst"]), st.integers(1, 12))
numbers = st.sampled_from([0.0, 1.0, 0.5, 0.25, 2.0, 1 / 8, 3.0, 0.1, 100.0]).map(Number) | st.integers(0, 10**15 - 1).map(
    lambda value: Number(float(value))
)
leaves = names | names_with_k | numbers | st.booleans().map(Flag)
COMPARISONS = [Operator(sign) for sign in ("<", "<=", ">", ">=", "==", "!=")]
nonzero = st.sampled_from(
    [Name("n"), Number(3.0), Negative(Number(0.7)), Product(Name("n"), (Step(Operator.TIMES, Number(2.0)),))]
)


def steps(operators: list[Operator], operand: st.SearchStrategy[Node]) -> st.SearchStrategy[tuple[Step, ...]]:
    return st.lists(st.builds(Step, st.sampled_from(operators), operand), min_size=1, max_size=3).map(tuple)


def grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        st.builds(Negative, inner),
        st.builds(Not, inner),
        st.builds(Product, inner, steps([Operator.TIMES], inner)),
        st.builds(Product, inner, steps([Operator.BY], nonzero)),
        st.builds(Sum, inner, steps([Operator.PLUS, Operator.MINUS], inner)),
        st.builds(Comparison, inner, steps(COMPARISONS, inner)),
        st.builds(And, parts),
        st.builds(Or, parts),
    )


trees: st.SearchStrategy[Node] = st.recursive(leaves, grow, max_leaves=12)
