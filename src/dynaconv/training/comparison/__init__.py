"""Compare methods: the same data and recipe for any list of networks and seeds, with speed and memory beside."""
