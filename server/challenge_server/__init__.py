"""The gRPC server and the operator's command line. Decodes, asks the engine, encodes."""
