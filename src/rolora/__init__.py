"""rolora: federated LoRA fine-tuning by alternating optimisation."""

__version__ = "0.1.0"
