"""What only a GPU needs: images uploaded without waiting, networks replayed as CUDA graphs, the fused search.

Nothing here is imported on a machine without one. None of it has run on a GPU yet: what can be is tested on the CPU
(the kernel in Triton's interpreter, the bookkeeping with a stand-in for the recorded graph).
"""
