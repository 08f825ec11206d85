"""The host side: profile and module tree in, bootable initramfs image out."""
