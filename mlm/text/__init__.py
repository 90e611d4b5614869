"""Text without heavy libraries: documents, scripts, sentences, folding."""
