"""Singular value fine-tuning (SVF): experts that scale the singular values of a base's weights and nothing else.

`directions` says which singular directions, `basis` computes and keeps them, `tuner` is the PEFT method, `mixing` adds experts
up, `export` writes one as a LoRA. Training them is `hybrid.weights`' business.
"""
