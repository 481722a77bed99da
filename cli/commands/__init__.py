"""One file for each noun of the command line; the functions read options, call an operation and return what it found."""
