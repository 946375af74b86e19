"""Random operators, docks, kills and clocks over a real database."""
