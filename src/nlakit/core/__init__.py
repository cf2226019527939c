"""Pure tensor functions: no files, no globals, no modules with weights.

Shape letters: N rows, B batch, T tokens, D d_model, V vocabulary, G group.
"""
