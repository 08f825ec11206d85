"""What differs between architectures for the prelinker, one file each."""
