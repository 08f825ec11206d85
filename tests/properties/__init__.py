"""Random prelinks of real modules, judged by the oracle."""
