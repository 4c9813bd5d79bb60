"""What every page of the experiments is made of: markup, numbers as text, and one base style."""
