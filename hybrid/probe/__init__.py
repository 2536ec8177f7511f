"""Probes: cheap measurements that say what kind of thing a capability is."""
