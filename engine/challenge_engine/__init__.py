"""Persistence and coordination: keeps challenges in PostgreSQL and lets the pure rules decide. Knows no gRPC."""
