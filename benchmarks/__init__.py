"""Speed and memory, side by side with what a user would run instead.

`python -m benchmarks` runs every suite. A suite is a module here with a function `cases(quick)`, which yields Cases to
be timed, and text to be printed as it is.
"""
