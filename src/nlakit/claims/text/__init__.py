"""Claims that are checked against the text itself, and against what the target expects next.

`state` says what is true at a position, `wording` writes it down, `finding` reads it back, and
`checking` holds the two together. No model takes part but the target, whose likely next tokens come
with the rows.
"""
