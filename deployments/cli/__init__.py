"""The command line of deployments."""
