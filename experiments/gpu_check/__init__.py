"""`make gpu-check`: are the GPU kernels right, and how fast are they, on this machine's GPU?"""
