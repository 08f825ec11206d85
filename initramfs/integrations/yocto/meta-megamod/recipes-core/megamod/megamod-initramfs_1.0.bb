SUMMARY = "This machine's initramfs, by megamod"
DESCRIPTION = "Set MEGAMOD_PROFILE here by a .bbappend, or in the machine's configuration."
LICENSE = "MIT"

inherit megamod-image nopackages
