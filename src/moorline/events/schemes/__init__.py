"""The ways in which senders prove themselves; each is a record's class, none knows a vendor."""
