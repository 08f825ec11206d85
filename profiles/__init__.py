"""Profiles: which modules are critical, which are deferred, and why each one is there."""
