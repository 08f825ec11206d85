"""What a kernel image says about itself: its exports and its configuration."""
