"""What people move and read: the explorer, the live lesson and its exercises, the start page, the report of a run."""
