"""Put rules around a policy: each rule keeps one promise to an administrator, whatever the policy decides."""
