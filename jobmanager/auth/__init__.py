"""API tokens, and the rate limit of each: who may send requests, and how many."""
