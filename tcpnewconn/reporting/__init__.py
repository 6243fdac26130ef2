"""From events to what is written."""
