"""Telling people: channels as rows, an outbox, deliveries that are tried again."""
