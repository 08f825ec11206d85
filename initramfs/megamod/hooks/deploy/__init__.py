"""Deferred stages that are loaded from the root file system."""
