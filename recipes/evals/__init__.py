"""Evals: k attempts per task (`runner`), what they add up to (`metrics`), how sure one can be (`statistics`)."""
