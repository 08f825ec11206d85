"""The hooks of dracut, initramfs-tools and mkinitcpio: installed, and run while an image is made."""
