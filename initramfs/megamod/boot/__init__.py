"""Boots an image in QEMU and reads the timeline that its console shows."""
