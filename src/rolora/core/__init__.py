"""The nouns of a federated round and their algebra; nothing here knows a model or a file."""
