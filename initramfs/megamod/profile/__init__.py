"""A profile: YAML in, checked values out."""
