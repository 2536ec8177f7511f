"""The section `backend` of type `openai`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hybrid.config.section import Section
from hybrid.config.text import EndpointProposerConfig


class OpenAIBackendConfig(Section):
    """Answers of a model behind an OpenAI-compatible endpoint (`POST url/chat/completions`). Skill documents are searched,
    gated and placed; nothing is trained, as there are no weights. The provider may change the model without a word."""

    type: Literal["openai"]
    url: str = Field(pattern=r"^https?://")
    """Base address, as in `http://127.0.0.1:8000/v1`."""
    served_model: str | None = None
    """Name of the model at that endpoint; default: `model.path`."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key. The key itself belongs in no file."""
    length_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the cap of an answer's tokens."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests under way at once. So many answers are made durable together: a kill loses no more than these."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Start no more than this; none leaves it to the endpoint's own 429 answers, which are waited for."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Longest wait for one try."""
    deadline_s: float = Field(default=600.0, gt=0)
    """Longest wait for one answer, retries included."""
    retries: int = Field(default=6, ge=0, le=20)

    def endpoint(self, name: str) -> EndpointProposerConfig:
        """The address, as the client of endpoints wants it; `name` is `model.path`."""
        return EndpointProposerConfig(
            type="endpoint",
            url=self.url,
            model=self.served_model or name,
            key_env=self.key_env,
            structured="none",
            timeout_s=self.timeout_s,
            deadline_s=self.deadline_s,
            retries=self.retries,
        )
