"""Tests of the gateway: its pure parts one by one, and the whole over real sockets against fake engines."""
