"""Images: where they come from, how they are decoded, varied and batched, and what becomes of unreadable ones."""
