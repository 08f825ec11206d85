"""What the benchmarks share: kernels, module sets, the ways to load them, guests, tables."""
