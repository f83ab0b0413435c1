"""The sample service: small, real, and breakable on request.

It uses the control plane's middleware and shares its Redis; it has no database and knows no model of ours.
"""
