"""Who may send requests: API tokens, and the rates that limit them."""
