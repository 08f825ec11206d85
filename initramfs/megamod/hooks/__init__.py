"""megamod in the images of dracut, initramfs-tools and mkinitcpio, and on the root file system."""
