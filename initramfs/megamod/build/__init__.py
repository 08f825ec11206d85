"""The recipe of `megamod build`: a profile and a kernel's modules in, a bootable image out."""
