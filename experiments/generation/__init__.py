"""Language models that generate: what the experiments alpaca, code and commonsense share."""
