"""What an image says about itself: its manifest, its files, its bill of materials."""
