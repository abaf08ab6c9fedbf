"""Instructions: Alpaca, scored by MMLU."""
