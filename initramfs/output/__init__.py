"""What is written around an archive: the file itself, a Unified Kernel Image, a FIT image, one EFI program."""
