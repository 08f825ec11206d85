"""Links a kernel's modules into one, and boots it with a single finit_module call."""
