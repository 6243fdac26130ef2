"""Answers about the connections of one host or several, from ledgers or from ClickHouse."""
