"""Profile and module tree in, Selection out: which module goes into which stage, and why."""
