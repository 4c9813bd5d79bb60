"""What the GPU kernels take of a Hopper chip, found by compiling them on a machine that has none."""
