"""The steps of one study, from its received instances to the findings and reports."""
