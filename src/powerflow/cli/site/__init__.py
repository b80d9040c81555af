"""Commands that work beside a site's own scheduler."""
