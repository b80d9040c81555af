"""The main job: a cluster on this machine that trains ten small models, and what it saved."""
