"""Training and mixing of experts that scale singular values (SVF). What computes with them is in `hybrid.backends.svf`."""
