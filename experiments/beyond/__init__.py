"""Variants of RoLoRA."""
