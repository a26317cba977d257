"""Who looks on at a sweep: trackers and notices. They read the ledger, and harm nothing."""
