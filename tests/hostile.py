"""Text that people, models and servers may send, meant to run, to break out of where it is shown, or to tear a page apart."""

from __future__ import annotations

RAN = "window.hostile_text_ran"
MARKUP = f"<script>{RAN}=1</script><img src=x onerror={RAN}=1><svg onload={RAN}=1>"
BREAKOUT = f"\"'><b onmouseover={RAN}=1>{{{{7*7}}}}{{% now 'Y' %}}${{7*7}}</textarea></title></script>-->"
LINK = f"javascript:{RAN}=1 [x](javascript:{RAN}=1) <a href=javascript:{RAN}=1>x</a>"
BIDI = "\u202egnp.exe\u202c \u2066abc\u2069 a\u200bb \ufeff\u0301\u0301\u0301\u0301"
LONG = "W" * 90
WIDE = "漢" * 60
TEXTS = {"markup": MARKUP, "breakout": BREAKOUT, "link": LINK, "bidi": BIDI, "long": LONG, "wide": WIDE}
"""Each at most 100 characters, so that the shortest of names can hold it."""
