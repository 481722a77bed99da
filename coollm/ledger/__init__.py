"""What happened: the usage log, one line for each request, and the ledger in SQL that is made of it."""
