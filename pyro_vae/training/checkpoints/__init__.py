"""Checkpoints: a run that is killed can be resumed.

`writer` decides when one is written and resumes from it, `folder` keeps the files, `snapshot` is what a file holds, and
`signals` makes Ctrl-C and SIGTERM wait for one.
"""
