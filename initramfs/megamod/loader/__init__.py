"""The loader's programs, init and ctl: found or compiled."""
