"""From one model to a smaller one that people use: the flow behind `claw compress`, `claw.shrink` and 05_one_model.

`shrink` is the flow; `goal` turns memory or time into a ratio, `until` finds how far a loss allows to go; `side_by_side`
measures two models alike, `screen` prints them; `commands` is the command line.
"""
