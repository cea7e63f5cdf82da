"""Services around the running of a business: issues, tickets, customers, messages. They share no protocol."""
