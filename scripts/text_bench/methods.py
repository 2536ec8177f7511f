"""The methods by name, in the order of the tables."""

from __future__ import annotations

from functools import partial

from text_bench.arm_hybrid import ABLATIONS, run_hybrid
from text_bench.peers_gepa import SUITED as GEPA_SUITED
from text_bench.peers_gepa import run_gepa
from text_bench.peers_skillopt import SUITED as SKILLOPT_SUITED
from text_bench.peers_skillopt import run_skillopt
from text_bench.run import Method

PEERS_AT_DEFAULTS = ("skillopt", "gepa")
PEERS_SUITED = ("skillopt, 1 edit", "gepa, minibatch 40")
METHODS: dict[str, Method] = {
    "hybrid": partial(run_hybrid, settings=ABLATIONS["hybrid"]),
    PEERS_AT_DEFAULTS[0]: partial(run_skillopt, settings={}),
    PEERS_SUITED[0]: partial(run_skillopt, settings=SKILLOPT_SUITED),
    PEERS_AT_DEFAULTS[1]: partial(run_gepa, settings={}),
    PEERS_SUITED[1]: partial(run_gepa, settings=GEPA_SUITED),
    **{name: partial(run_hybrid, settings=settings) for name, settings in ABLATIONS.items() if name != "hybrid"},
}
