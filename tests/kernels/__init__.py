"""Small kernels that the tests build themselves."""
