"""The wire: topics, envelopes, routing, client. Knows no device and no firmware."""
