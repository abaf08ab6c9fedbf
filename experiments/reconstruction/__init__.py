"""What comes back of a site's batch."""
