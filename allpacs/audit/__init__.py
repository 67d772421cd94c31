"""The audit trail: messages by PS3.15 section A.5, kept in a local spool until a syslog server has them."""
