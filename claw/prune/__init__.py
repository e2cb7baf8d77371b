"""Compression: a model, a method and a ratio become a smaller stock model. `compress` is the one call.

Most methods go `targets` (how small) → `statistics` (of calibration text) → `scores` (what matters) → `surgery` (the cut).
`slicegpt` and `prunenet` are methods of their own. `whole_model` is the method `claw`, made of `allocation`, `latency`,
`regression` and `final_gain`.
"""
