"""Attempts as tests need them, and random ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from recipes.curation import PooledAttempt

SIGNAL = "speed"


def said(text: str, question: str = "1 + 1?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": text}]


def attempt(task_id: str, number: int = 0, value: float | None = 1.0, **fields: Any) -> PooledAttempt:
    """Right where its reward is 1 or more. value None: it ended in an error."""
    fields.setdefault("messages", said(f"{task_id} {number} {value}"))
    if value is None:
        return PooledAttempt(task_id, number, error="Lost.", **{**fields, "messages": []})
    fields.setdefault("is_correct", value >= 1)
    return PooledAttempt(task_id, number, reward=value, **fields)


rewards = st.sampled_from([0.0, 1.0, 0.1, 0.5, 0.7, 1 / 3, -2.5, 1e-9, 1e12]) | st.floats(-1e6, 1e6)
outcomes = st.fixed_dictionaries(
    {
        "is_correct": st.sampled_from([True, False, True, False, None]),
        "reward": st.none() | rewards,
        "signals": st.fixed_dictionaries({}, optional={SIGNAL: rewards | st.sampled_from([float("nan"), None])}),
        "num_tokens": st.integers(0, 3),
        "messages": st.sampled_from([said("2"), said("3"), said("two, I think"), said(" "), [], said("2")[:1]]),
    }
)


@st.composite
def pools(draw: st.DrawFn) -> list[PooledAttempt]:
    """Up to 3 runs of up to 5 tasks with up to 6 attempts each, in any order."""
    made = []
    for run in range(draw(st.integers(1, 3))):
        for task in range(draw(st.integers(1, 5))):
            for number in range(draw(st.integers(0, 6))):
                fields = draw(outcomes)
                benchmark = "ab"[task % 2]
                error = None if fields["is_correct"] is not None else "Lost."
                made.append(PooledAttempt(f"t{task // 2}", number, **fields, error=error, run=f"r{run}", benchmark=benchmark))
    return draw(st.permutations(made))
