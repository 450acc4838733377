"""Speed and memory beside what a user would run instead: ratios, measured in interleaved rounds of one run."""
