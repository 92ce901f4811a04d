"""`challenge-engine relay`: what the events look like for a message broker, and the brokers it can bring them to."""
