"""Corpora as documents and as token blocks; calibration, recovery and held-out text never share a document."""
