"""How Export reads the databases that it knows: one module for each."""
