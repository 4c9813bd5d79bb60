"""How close does each method come to dense attention at which density? The command: `__main__`."""
