"""Keep the controller's data about each active job."""
