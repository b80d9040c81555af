"""What the controller knows of each active job."""
