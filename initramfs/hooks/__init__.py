"""Boot an image in QEMU and read the timeline that its console shows."""
