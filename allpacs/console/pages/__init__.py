"""The handlers, one file a page: a visit in, a response out."""
