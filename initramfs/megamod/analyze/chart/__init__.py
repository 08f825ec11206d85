"""Where a boot's time went: one record of it, drawn, compared and held against a budget."""
