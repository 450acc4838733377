"""Published figures beside our own: named sets of runs, each stored once by what it is, and the tables of them."""
