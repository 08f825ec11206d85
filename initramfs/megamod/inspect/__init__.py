"""What is in an image: its manifest, files and bill of materials; and its members, found again in traces."""
