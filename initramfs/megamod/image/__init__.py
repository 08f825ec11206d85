"""The bytes of an output: cpio archive, UKI, FIT image, one EFI program, signatures."""
