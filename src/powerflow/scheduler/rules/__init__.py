"""Put rules around a policy. Each rule keeps one promise to an administrator, even if the policy decides otherwise."""
