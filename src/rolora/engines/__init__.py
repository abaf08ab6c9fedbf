"""Where clients run: in this process, or across machines with Flower."""
