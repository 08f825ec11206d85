"""Where a boot's time went: one record of it, drawn, compared, held against a budget, and used to split a profile."""
