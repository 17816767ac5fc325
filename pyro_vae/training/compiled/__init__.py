"""A training step as one compiled function.

`step` is the step (`CompiledStep`), `graph` records and compiles functions of tensors, and `optimizer` keeps
parameters and moments in flat tensors.
"""
