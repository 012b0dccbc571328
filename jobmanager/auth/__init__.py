"""Who may send requests: API tokens, their rates, and the host names that the service answers for."""
