"""A profile whose critical stage holds only what root and console need, found by a boot."""
