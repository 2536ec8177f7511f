"""Talk to `hybrid serve` with the `openai` package: a routed chat, a stream, and one capability by name.

    hybrid serve runs/quickstart                                 # in another terminal
    python examples/serve_client.py "ask jfd Het" "q hicf $fir"

Every answer says what it got: the capability, whether a document and an adapter were applied, and why.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import openai


def told(reply: Any) -> str:
    """What an answer got, in words."""
    applied: dict[str, Any] = (reply.model_extra or {}).get("hybrid") or {}
    parts = [name for name in ("skill", "adapter") if applied.get(name)]
    return f"{applied.get('capability') or 'base'} ({' and '.join(parts) or 'nothing applied'}; {applied.get('why')})"


def main() -> None:
    """Ask each question three ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    arguments = parser.parse_args()
    client = openai.OpenAI(base_url=arguments.url, api_key=os.environ.get("HYBRID_API_KEY", "none"))
    print("models:", ", ".join(model.id for model in client.models.list()))
    for question in arguments.questions:
        reply = client.chat.completions.create(model="hybrid", messages=[{"role": "user", "content": question}])
        print(f"\n{question!r}: {reply.choices[0].message.content!r}, {told(reply)}")
        print("  streamed:", end=" ")
        for piece in client.completions.create(model="hybrid", prompt=question, stream=True):
            print(piece.choices[0].text, end="|", flush=True)
        bare = client.completions.create(model="base", prompt=question, max_tokens=16)
        print(f"\n  the base alone: {bare.choices[0].text!r}")


if __name__ == "__main__":
    main()
