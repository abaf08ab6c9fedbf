"""What privacy costs: accuracy over epsilon, by method."""
