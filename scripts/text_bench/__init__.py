"""The peer benchmark of text optimisers, in parts. `scripts/bench_text.py` is the way in; `docs/text-benchmark.md` says
what is counted."""
