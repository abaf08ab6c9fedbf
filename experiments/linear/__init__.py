"""Algorithm 2 and its theorem on the linear regressor."""
