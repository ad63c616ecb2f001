"""Curves over k, for the plot (static/js/eval_curve.js) and for the table below it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def curves_context(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """For the plot and for the table below it: curves by name, each {k as text: estimate}."""
    curves: list[dict[str, Any]] = [
        {"name": name, "points": [{"k": int(k), **estimates[k]} for k in sorted(estimates, key=int)]}
        for name, estimates in found.items()
    ]
    ks = [point["k"] for point in curves[0]["points"]] if curves else []
    by_k = [{point["k"]: point for point in curve["points"]} for curve in curves]
    rows = [{"k": k, "points": [points[k] for points in by_k if k in points]} for k in ks]
    return {"curves": curves, "curves_json": json.dumps(curves), "curve_rows": rows}
