"""What was merged, taken apart again: addresses, symbolized traces, scripts for debuggers."""
