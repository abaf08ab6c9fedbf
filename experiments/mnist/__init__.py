"""The two-layer net on MNIST (Figure 2)."""
