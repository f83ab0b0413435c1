"""A restore as a transaction: everything that it changes is either all there at the end, or put back."""
