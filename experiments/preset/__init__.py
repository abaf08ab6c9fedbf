"""What a newcomer should run: gauge, carried moments, calibrated loss, information weights."""
