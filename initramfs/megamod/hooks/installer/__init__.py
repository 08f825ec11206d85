"""`megamod install`: megamod's own image as what a machine boots."""
