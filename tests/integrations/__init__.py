"""Checks of initramfs/integrations with the parsers of the build systems themselves; run by hand."""
