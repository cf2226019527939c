"""Sparse autoencoders as pure functions of tensors.

Shape letters: N rows (activations), D width of an activation (`d_in`), M latents (`d_sae`).
`W_enc` is D x M and `W_dec` M x D, so row i of `W_dec` is the direction that latent i writes.
"""
