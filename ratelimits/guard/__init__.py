"""The limiter's share of a service that has none of our models: put ``ratelimits.guard`` into INSTALLED_APPS."""
