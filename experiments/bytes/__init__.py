"""Accuracy over bytes: what RoLoRA loses when what it sends is coded, up and down."""
