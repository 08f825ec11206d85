"""What a machine has: this one or a recorded one, its root devices, its device tree."""
