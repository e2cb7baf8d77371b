"""Sweeps: a study becomes jobs (`plan`), a job is one executed notebook (`execute`), and jobs run in turn here (`run_jobs`) or
on many workers (`cluster`).

No part holds state: what is done is what has a record on disk, so any of them may be killed and started again.
"""
