"""The surroundings of a call: random state, Pyro's globals, the processor, processes."""
