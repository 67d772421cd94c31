"""Documentation: pages, decision records, and the reference pages made from the code (`python -m docs`)."""
