"""What surrounds a call: `random` state, Pyro's globals (`isolation`), the `processor`, and other `processes`."""
