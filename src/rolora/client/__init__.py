"""What one client does: it holds parts, trains, evaluates."""
