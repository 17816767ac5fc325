"""A training step as one compiled function.

`step` is the step (`CompiledStep`), and `optimizer` keeps parameters and moments in flat tensors.
"""
