"""The contract as values: how the messages of the wire and the values of the rules belong together."""
