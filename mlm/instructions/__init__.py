"""Instructions: templates in many languages and the records made from a corpus."""
