"""Table and sentences about proxy-tuning, as plain cells; each form of the report escapes them for itself.

Does not: escape, decide or measure.
"""

from __future__ import annotations

from hybrid.report.parts_proxy import Proxy, ProxyTrial
from hybrid.report.schema import CapabilityReport
from hybrid.report.text import ABSENT, interval, num, signed

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
HEAD = ("alpha", "small model's step", "search", "gain over the base", "tokens a second", "of the base's")


def strengths(c: CapabilityReport) -> Table | None:
    """Every strength that was tried; None where no small model steers."""
    return None if c.proxy is None else (HEAD, [_row(t, c.proxy) for t in c.proxy.trials])


def _row(t: ProxyTrial, proxy: Proxy) -> tuple[str, ...]:
    base, speed = proxy.base_tokens_per_second, t.tokens_per_second
    return (
        f"{t.alpha:g}" + (" (offered)" if t.alpha == proxy.alpha and t == _offered(proxy) else ""),
        str(t.step),
        f"{num(t.search.mean)} {interval(t.search)} n={t.search.n}",
        f"{signed(t.gain.delta)} {interval(t.gain, sign=True)}",
        ABSENT if speed is None else f"{speed:.0f}",
        ABSENT if speed is None or not base else f"{speed / base:.2f}",
    )


def _offered(proxy: Proxy) -> ProxyTrial | None:
    same = [t for t in proxy.trials if t.alpha == proxy.alpha]
    return max(same, key=lambda t: t.search.mean, default=None)


def sentence(c: CapabilityReport) -> str:
    """Which small model steers, and how; empty where none does."""
    p = c.proxy
    if p is None:
        return ""
    who = "the base itself" if p.small_fingerprint is None else f"{p.small} ({p.small_fingerprint[:12]})"
    what = "the scores of the base move by" if p.apply == "logits" else "the adapter of the base is scaled by"
    much = "alpha times what tuning changed in the scores of" if p.apply == "logits" else "alpha; it was trained on"
    found = "no strength beats the base on the search split" if p.alpha is None else f"offered at alpha {p.alpha:g}"
    return f"Proxy: {what} {much} {who}, tuned by {p.trained_by}; {found}. The base's weights are untouched."


def how_read(c: CapabilityReport) -> str:
    """What a placed proxy is to whoever gets its folder; empty where the placed adapter is none."""
    p = c.proxy
    if p is None or p.apply != "logits" or c.artifacts.adapter is None or c.artifacts.method != "proxy":
        return ""
    who = "the base itself" if p.small_fingerprint is None else f"the small model {p.small}, {p.small_fingerprint}"
    return (
        f"The adapter of {c.name} is a proxy and no PEFT folder: it holds a LoRA of {who}, which moves the base's scores while "
        "it decodes. hybrid applies it; it is not merged into anything."
    )
