"""The one vocabulary of languages: a table of facts, its lookups, named sets."""
