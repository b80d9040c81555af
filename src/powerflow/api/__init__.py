"""Define what a client can ask of a live cluster: operations, requests and answers."""
