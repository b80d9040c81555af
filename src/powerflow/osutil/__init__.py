"""Replace and lock files, and identify processes, safely against crashes and other users."""
