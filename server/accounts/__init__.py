"""Who asks and what they may: keys, plans and quotas, the usage of a day. Event loop only."""
