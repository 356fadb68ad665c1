"""The whole house under load: what goes in, what came out, and whether the two agree."""
