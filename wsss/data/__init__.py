"""Images, tags and masks: reading them from disk, drawing synthetic ones, batching them."""
