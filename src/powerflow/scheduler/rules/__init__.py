"""Rules around any policy: each keeps one promise to an administrator."""
