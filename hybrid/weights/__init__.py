"""The weight substrate: LoRA adapters trained by GRPO or SFT, with checkpoints that resume to the same bytes."""
