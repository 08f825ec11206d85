"""The parts of run.py: each measures one thing and gives its tables."""
