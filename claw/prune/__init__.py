"""Compression: statistics (one pass over calibration text) → scores → plan → surgery, composed by `methods`."""
