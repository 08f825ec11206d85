"""The command line: click declarations, each with the work behind it, and the one place where errors become a line."""
