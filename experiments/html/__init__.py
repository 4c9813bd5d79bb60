"""The parts of every page: markup, numbers as text, and one base style."""
