"""What a private run promises: what it spends, what makes its noise, what does not go with it."""
