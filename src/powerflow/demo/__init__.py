"""Run the demo: an emulated cluster on this machine trains ten small models, and reports the savings."""
