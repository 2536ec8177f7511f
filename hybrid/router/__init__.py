"""The router: a pure policy from evidence to placement, with its reasons."""
