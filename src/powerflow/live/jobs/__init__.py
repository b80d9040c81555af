"""Keep what the controller knows of each active job."""
