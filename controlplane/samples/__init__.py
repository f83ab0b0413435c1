"""The time series that the pages draw: what each service did, every 15 s, and what became of it in 5 minutes."""
