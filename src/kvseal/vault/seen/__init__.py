"""What was seen of vault metas, in this process and before it: an older one is as genuine as the newest."""
