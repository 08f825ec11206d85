"""Pass 10, verify: the finished file, read again with other code than the one that wrote it."""
