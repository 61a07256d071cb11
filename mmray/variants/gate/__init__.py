"""Whether a variant may stand in for its parent: decisions compared slice by slice, and the verdict."""
