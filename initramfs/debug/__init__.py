"""What was merged, taken apart again: maps, symbolized traces, scripts for debuggers."""
