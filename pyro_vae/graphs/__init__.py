"""Functions of tensors, recorded and compiled.

`graph` records and compiles a function, `functions` says in what form operations are recorded, `constants` watches what
a graph treats as constant, and `recorder` keeps graphs of functions of a model that are called many times.
"""
