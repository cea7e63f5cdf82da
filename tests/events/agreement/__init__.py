"""One file a sender: its own library and we take each other's signatures, and refuse the same deliveries."""
