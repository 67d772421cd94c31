"""What is asked of allpacs and its peers; each module yields checks."""
