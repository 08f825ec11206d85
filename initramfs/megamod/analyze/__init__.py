"""Where a boot's time goes, and what to do about it: charts, budgets, and a better split of a profile."""
