"""The cpio archive of an image: written, compressed, read again."""
