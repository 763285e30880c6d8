"""From class maps and features to pseudo-masks: pure functions on tensors, no files, no state."""
