"""The operations, one module for each part of the control plane. A handler parses, asks one function, and answers."""
