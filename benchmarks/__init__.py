"""What kvseal costs per record, beside the alternatives and beside the least that is possible."""
