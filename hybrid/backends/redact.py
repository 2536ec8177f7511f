"""Keeps keys out of whatever is shown or stored.

    Redactor([SecretStr("sk-canary")])("you sent Bearer sk-canary")     # "you sent Bearer [redacted]"

Does not: find secrets that it was not told of beyond the usual shapes (authorization headers, bearer tokens, `sk-`
keys, `api_key=` pairs), or a secret that somebody spelt backwards.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

MARK = "[redacted]"
_SHAPES = (
    re.compile(r"(?i)\b(bearer|basic)([\s:]+)(?!\[redacted\])[^\s\"',;}<]{6,}"),
    re.compile(r"(?i)\b(authorization|x-api-key|api[-_]?key)(\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!bearer|basic|\[redacted\])"
               r"[^\s\"',;}<]+"),
)  # fmt: skip
_KEY_SHAPE = re.compile(r"\b(?:sk|pk|hf|gsk)[-_][A-Za-z0-9*._-]{6,}")


class Redactor:
    """Replaces secrets in a text. It holds them as `SecretStr`, so that neither its repr nor its state shows one."""

    def __init__(self, secrets: Iterable[SecretStr]) -> None:
        self._secrets = tuple(s for s in secrets if s.get_secret_value())

    def secrets_only(self, text: str) -> str:
        """`text` without the known secrets, plain or in the usual encodings. What merely looks like a key stays."""
        for secret in self._secrets:
            for form in _forms(secret.get_secret_value()):
                text = text.replace(form, MARK)
        return text

    def __call__(self, text: str) -> str:
        """`text` as it may be shown: on one line, without control characters, known secrets and key-like strings."""
        text = self.secrets_only(one_line(text))
        for shape in _SHAPES:
            text = shape.sub(rf"\1\2{MARK}", text)
        return _KEY_SHAPE.sub(MARK, text)


def one_line(text: str) -> str:
    """`text` with white space collapsed and unprintable characters taken out (they could drive a terminal)."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def plain_url(url: str) -> str:
    """`url` without user, password, query and fragment: the parts in which people leave secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _forms(secret: str) -> list[str]:
    """How a secret may be spelt in an echo, longest first, so that no part of a longer spelling is left over."""
    encoded = base64.b64encode(secret.encode()).decode()
    escaped = json.dumps(secret)[1:-1]
    forms = {secret, quote(secret), quote(secret, safe=""), encoded, escaped, escaped.replace("/", "\\/")}
    return sorted(forms, key=lambda form: (-len(form), form))
