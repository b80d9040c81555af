"""Define the contract of a live cluster: its operations, requests and answers."""
