"""From events to entries in the journal, text and JSON."""
