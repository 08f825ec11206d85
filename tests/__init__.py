"""The tests, and what they share, imported from the top of the tree: `tests.oracle`, `tests.unit.module_factory`."""
