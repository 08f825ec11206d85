"""megamod in the images of dracut, initramfs-tools and mkinitcpio."""
